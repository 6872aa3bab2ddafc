//! The loader against kernels of every kind, honest and hostile.

mod hostile;
mod kernels;
mod samples;
