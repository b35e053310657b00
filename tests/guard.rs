//! The receiving end: one suite for all forms of the guard and all states, against real databases and processes.
#![cfg(target_os = "linux")]

mod guard {
    mod answers;
    mod asking;
    mod bounds;
    mod callers;
    mod care;
    mod door;
    mod exec;
    mod file;
    mod layer;
    mod passing;
    mod proxy;
    mod rules;
    mod service;
    mod sql;
}
mod support;
