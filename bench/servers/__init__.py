"""One module per candidate: `build(options)` makes the ASGI app that `bench.serve` runs."""
