"""Which images a data set has, as memory-mapped arrays that are built once and kept in the cache."""
