//! Files that are not what they should be, and what happens to a file while it is used.
