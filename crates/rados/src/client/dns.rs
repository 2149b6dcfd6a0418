//! Finds monitors through DNS SRV records. Ceph: `MonMap::init_with_dns_srv` in `src/mon/MonMap.cc`.

use ceph_codec::{AddrType, EntityAddr};
use ceph_conf::DnsSrv;
use hickory_resolver::TokioResolver;

use super::mon::MonTarget;

/// The monitors that DNS knows.
pub(super) async fn srv(srv: &DnsSrv) -> Result<Vec<MonTarget>, Box<dyn std::error::Error + Send + Sync>> {
    let resolver = TokioResolver::builder_tokio()?.build();
    let mut targets = Vec::new();
    for record in resolver.srv_lookup(srv.query()).await?.iter() {
        let host = record.target().to_utf8();
        let host = host.trim_end_matches('.');
        // Port 6789 is that of messenger v1.
        let kind = if record.port() == 6789 { AddrType::LEGACY } else { AddrType::MSGR2 };
        for addr in tokio::net::lookup_host((host, record.port())).await? {
            let addr_v2 = EntityAddr { kind, nonce: 0, addr: Some(addr) };
            let addr_v2 = (kind == AddrType::MSGR2).then_some(addr_v2);
            targets.push(MonTarget { label: format!("{host}:{}", record.port()), addr: addr_v2 });
        }
    }
    if targets.is_empty() {
        return Err("no such record".into());
    }
    Ok(targets)
}
