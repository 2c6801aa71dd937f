//! Helpers of the tests: numbers, comparisons, pools.
