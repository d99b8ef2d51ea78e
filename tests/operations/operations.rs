//! The page for operators, `docs/operations.md`: its commands run, its files are read by the programs that they are for,
//! and both languages have the same blocks.
//!
//! The words after the fence of a block say what it is:
//!
//! | fence | |
//! |---|---|
//! | `sh run` | commands, which are run: all of one section in one shell, in a folder of their own |
//! | `text output` | the lines that those commands print; `…` stands for anything |
//! | `haproxy file NAME`, `ini file NAME`, .. | a file of that folder |
//! | `sh` | commands that need what no test has: a cluster, a manager of services, a name on the internet |
//!
//! Each section has an address of its own in the place of 127.0.0.1, so that no two of them, and no other test, want the
//! same port. After a command that ends with `&` the shell waits until the server listens, as a reader of the page does.

mod commands;
mod kubernetes;
mod languages;
mod limits;
mod page;
mod session;
mod units;
