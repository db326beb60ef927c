//! Where an author's scheduler would be.
