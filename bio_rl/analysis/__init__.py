"""Runs that are over, or still going: read from their folders, compared, shown. Nothing here trains or needs to."""
