//! Servers under a service manager: sockets that were opened before the program was started, messages about what the
//! server does, reloads, and servers that end when they are idle.

mod activation;
mod idle;
mod notify;
mod reload;
mod units;
