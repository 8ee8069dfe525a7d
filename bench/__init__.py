"""The benchmark: Gapless beside its peers and the floor, in one run. Start it with `scripts/bench`."""
