//! Ceph's authentication: keyrings, tickets, authorizers and the ciphers they use
