//! CRUSH: maps an input number to a list of OSDs
