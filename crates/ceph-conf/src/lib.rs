//! How a Ceph client is configured: ceph.conf, environment, monitor addresses, QEMU's rbd: spelling
