//! What users write: a `ceph.conf`, a list of monitors, an image, QEMU's name of one. No text may panic or take
//! long, and what was understood prints as something that is understood the same.
#![no_main]

use ceph_conf::{ConfFile, ConfigBuilder, Environment, ImageSpec, MonAddr, Overrides, QemuRbd, parse_mon_host};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = ConfFile::parse(data) {
        configure(&Environment::default(), &Overrides::default(), Some(&file));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };

    if let Ok(monitors) = parse_mon_host(text) {
        for addr in monitors.into_iter().flatten() {
            assert!(!addr.endpoints().is_empty());
            assert_eq!(parse_mon_host(&MonAddr::to_string(&addr)), Ok(vec![vec![addr]]));
        }
    }
    if let Ok(spec) = text.parse::<ImageSpec>() {
        assert_eq!(spec.to_string().parse(), Ok(spec));
    }
    if let Ok(name) = text.parse::<QemuRbd>() {
        configure(&Environment::default(), &name.overrides(), None);
    }
    let env = Environment { ceph_args: Some(text.into()), ..Environment::default() };
    configure(&env, &Overrides::default(), None);
});

fn configure(env: &Environment, overrides: &Overrides, file: Option<&ConfFile>) {
    let Ok(builder) = ConfigBuilder::new(env, overrides) else { return };
    let _ = builder.conf_paths();
    let Ok(config) = builder.build(None, file) else { return };
    let _ = (config.mon_hosts(), config.mon_dns_srv(), config.credentials(), config.auth_methods());
    let _ = (config.client_modes(), config.mon_client_modes(), config.client_mount_timeout());
    for (name, _) in config.options() {
        let _ = (config.get_bool(name), config.get_size(name), config.get_count(name), config.get_duration(name));
    }
}
