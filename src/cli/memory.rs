//! `dsmctl memory`: what becomes of a memory that was lost.

use super::arguments::{AcceptEmpty, Global};
use super::failure::Failure;

pub(super) fn accept_empty(_accept: &AcceptEmpty, _global: &Global) -> Result<(), Failure> {
    Err(Failure::Usage("this release cannot accept an empty memory yet".to_owned()))
}
