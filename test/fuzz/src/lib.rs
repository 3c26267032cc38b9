//! What the targets share: a bound on memory, and the checks that several of them make.
//!
//! A target calls the function that the product calls on the same bytes, and asserts more than that
//! it returns: what it accepts has to hold what its documentation says.

pub mod allocation;
pub mod classification;
pub mod composition;
pub mod image;
pub mod options;
