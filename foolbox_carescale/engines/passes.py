"""Numbers that the engines compiled by XLA share: when to stop, and how rows are cut up."""

# Relative error of the norm at which a row is done: what the rounding of its sums leaves.
SLACK = {"float32": 1.5e-7, "float64": 2e-14}
# Newton takes 4 to 6 passes on images, at most 35 on hard rows.
PASSES = 40
# Halving the 280 binades of float32 down to its last bit takes 32 passes, the 2100 of float64 63;
# Newton takes two of three.
BRACKETED_PASSES = 200
# Rows are added up in a loop over segments, a segment as so many parts element by element: XLA's
# CPU backend vectorises that and distributes it over threads, but not a reduction. (Without the
# loop it merges further steps of the sum into the first one and no longer vectorises.) Measured on
# two cores, 32 rows of 150528: 2 ms for both sums, 22 ms by two reductions over the last axis.
PARTS = 8
# The results of a segment fit the cache.
LANES = 1024
# In a longer sum of float32 the rounding begins to show.
MOST_SEGMENTS = 64
# Parts begin at multiples of a cache line, else they are read three times slower.
ALIGNED = 16
# 1 / eps is not a normal number above, in float32
LARGEST_EPS = 2.0**125
# n^(1/p) overflows for small p; a start that is too low only costs passes
SMALLEST_START = 1e-30
