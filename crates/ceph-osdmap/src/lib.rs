//! The OSDMap and its incrementals: object name to placement group to OSDs
