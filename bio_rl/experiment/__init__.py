"""One run: build, train, evaluate, write the run folder."""
