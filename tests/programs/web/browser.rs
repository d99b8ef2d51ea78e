//! The listing in a real browser.
