//! Servers under a service manager: sockets that were opened before the program was started, and reloads.

mod activation;
mod reload;
