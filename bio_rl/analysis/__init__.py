"""Runs that are over, or still going: read from their folders, compared, shown. Nothing here trains or needs to."""

from bio_rl.analysis.records import load as load
