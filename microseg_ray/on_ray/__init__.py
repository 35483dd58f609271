"""The only package that imports ray: start, workers' environment, actors, rows (Ray Data), fits (Train), searches (Tune)."""
