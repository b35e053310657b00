//! Commands, run for real.
#![cfg(target_os = "linux")]

mod execute {
    mod attempt;
    mod bounds;
    mod ending;
    mod limits;
    mod output;
    mod starting;
    mod supervised;
    mod whole;
}
