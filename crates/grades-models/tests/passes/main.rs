//! Training passes of a whole model: which products they execute, and what they give by other ways.

#[cfg(test)]
mod backward;
#[cfg(test)]
mod experts;
#[cfg(test)]
mod fused;
#[cfg(test)]
mod model;
#[cfg(test)]
mod other_ways;
#[cfg(test)]
mod pictures;
