//! The launchers: one file for each kernel file in `kernels/`, of the same name.
