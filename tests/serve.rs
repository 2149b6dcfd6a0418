//! An image served over NBD is the image that librbd knows, whichever side wrote it.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Cluster, MIB, Server, json, program, run, start, wait_until};

/// A file of random data with holes, made once.
fn sample(cluster: &Cluster) -> String {
    let path = cluster.file("sample.img");
    if !fs::exists(&path).unwrap() {
        run(&format!(
            "truncate -s 64M {path}
             for at in 0 1 5 17 40 63; do
                 head -c 700000 /dev/urandom | dd of={path} bs=1M seek=$at conv=notrunc status=none
             done"
        ));
    }
    path
}

/// Fills a range of an export with random writes of random sizes, 32 at a time, and reads them all back.
fn fio_verify(uri: &str, options: &str) {
    let dir = tempfile::tempdir().unwrap();
    run(&format!(
        "cd {} && fio --thread --name=verify --ioengine=nbd --uri='{uri}' --rw=randwrite --iodepth=32 --size=64M \
         --bsrange=512-256k --blockalign=512 --verify=crc32c --verify_fatal=1 --do_verify=1 {options}",
        dir.path().display()
    ));
}

#[test]
fn nbd_tools_see_the_export_with_its_size_and_abilities() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    for name in [image.spec.as_str(), ""] {
        let info = json(&run(&format!("nbdinfo --json '{}'", server.uri(name))));
        assert_eq!(info["protocol"], "newstyle-fixed", "{info}");
        assert_eq!(info["structured"], true, "{info}");
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], 64 * MIB, "{export}");
        assert_eq!(export["is_read_only"], false, "{export}");
        for ability in ["can_flush", "can_fua", "can_trim", "can_zero", "can_df", "can_cache"] {
            assert_eq!(export[ability], true, "{ability} in {export}");
        }
        assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]), "{export}");
        assert_eq!(export["block_size_maximum"], 32 * MIB, "{export}");
    }
    let list = json(&run(&format!("nbdinfo --list --json '{}'", server.uri(""))));
    assert_eq!(list["exports"][0]["export-name"], image.spec, "{list}");
    assert_eq!(list["exports"].as_array().unwrap().len(), 1, "{list}");
}

#[test]
fn what_qemu_img_writes_over_nbd_is_what_librbd_reads() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let sample = sample(cluster);
    let server = Server::serve(cluster, &[&image.spec]);
    run(&format!("qemu-img convert -n -f raw -O raw {sample} '{}'", server.uri(&image.spec)));
    run(&format!("qemu-img compare -f raw -F raw {sample} '{}'", cluster.qemu(&image.spec)));
    run(&format!("qemu-img compare -f raw -F raw {sample} '{}'", server.uri(&image.spec)));
    assert_eq!(cluster.librbd_digest(&image.spec), server.digest(&image.spec));
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
    // 64 MiB in 4 MiB objects; the sample has data in the 1st, 2nd, 5th, 11th and 16th.
    assert_eq!(cluster.object_count(&image), 5);
}

#[test]
fn what_librbd_writes_is_what_nbd_clients_read() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let sample = sample(cluster);
    run(&format!("qemu-img convert -n -f raw -O raw {sample} '{}'", cluster.qemu(&image.spec)));
    let server = Server::serve(cluster, &[&image.spec]);
    run(&format!("qemu-img compare -f raw -F raw {sample} '{}'", server.uri(&image.spec)));
    // And while both have it open.
    run(&format!("qemu-io -f raw -c 'write -P 0x5a 3M 1M' '{}'", cluster.qemu(&image.spec)));
    server.qemu_io(&image.spec, &["read -P 0x5a 3M 1M"]);
    assert_eq!(cluster.librbd_digest(&image.spec), server.digest(&image.spec));
}

#[test]
fn random_writes_of_random_sizes_read_back_the_same_from_both_sides() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    fio_verify(&server.uri(&image.spec), "");
    let digest = server.digest(&image.spec);
    assert_eq!(cluster.librbd_digest(&image.spec), digest);
    run(&format!(
        "qemu-img compare -f raw -F raw '{}' '{}'",
        cluster.qemu(&image.spec),
        server.uri(&image.spec)
    ));
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn requests_need_no_alignment() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &[&image.spec]);
    run(&format!(
        "truncate -s 16M {0}; for at in 1 511 4095 4194303 8388607 16777215; do
             printf X | dd of={0} bs=1 seek=$at conv=notrunc status=none
         done; nbdcopy --request-size=4096 {0} '{1}'",
        cluster.file("odd.img"),
        server.uri(&image.spec)
    ));
    server.qemu_io(&image.spec, &["write -P 7 4194301 7", "read -P 7 4194301 7", "read -P 0 4194308 100"]);
    run(&format!(
        "printf '\\7\\7\\7\\7\\7\\7\\7' | dd of={0} bs=1 seek=4194301 conv=notrunc status=none; \
         rbd() {{ CEPH_CONF={1} command rbd \"$@\"; }}; rbd export --no-progress {image} - | cmp - {0}",
        cluster.file("odd.img"),
        cluster.conf()
    ));
}

#[test]
fn requests_may_be_as_large_as_32_mib() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 9 1M 32M", "read -P 9 1M 32M", "read -P 0 33M 31M"]);
}

#[test]
fn block_status_tells_holes_from_data() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let map = |server: &Server| json(&run(&format!("nbdinfo --map --json '{}'", server.uri(&image.spec))));
    let empty = map(&server);
    assert!(empty.as_array().unwrap().iter().all(|extent| extent["type"] == 3), "{empty}");
    server.qemu_io(&image.spec, &["write -P 1 8M 4M"]);
    let written: u64 = map(&server)
        .as_array()
        .unwrap()
        .iter()
        .filter(|extent| extent["type"] == 0)
        .map(|extent| {
            let (offset, length) = (extent["offset"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
            assert!(offset >= 8 * MIB && offset + length <= 12 * MIB, "{extent}");
            length
        })
        .sum();
    assert_eq!(written, 4 * MIB);
}

#[test]
fn discards_free_objects_and_keep_what_is_smaller_than_64_kib() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 12M"]);
    assert_eq!(cluster.object_count(&image), 3);
    server.qemu_io(&image.spec, &["discard 4k 4k", "read -P 1 0 12M"]);
    server.qemu_io(&image.spec, &["discard 64k 64k", "read -P 0 64k 64k", "read -P 1 128k 64k"]);
    server.qemu_io(
        &image.spec,
        &["discard 1124k 200k", "read -P 1 1124k 28k", "read -P 0 1152k 128k", "read -P 1 1280k 44k"],
    );
    server.qemu_io(&image.spec, &["discard 4M 4M", "read -P 0 4M 4M", "read -P 1 8M 4M"]);
    assert_eq!(cluster.object_count(&image), 2);
    let used = json(&cluster.run(&format!("rbd du {image} --format json")))["images"][0]["used_size"].clone();
    assert_eq!(used, 8 * MIB);
    server.qemu_io(&image.spec, &["discard 0 12M", "read -P 0 0 64M"]);
    assert_eq!(cluster.object_count(&image), 0);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn write_zeroes_is_exact_and_takes_space_only_when_told_to_make_no_hole() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -z -u 4M 8M", "read -P 0 0 12M"]);
    assert_eq!(cluster.object_count(&image), 0);
    // Without -u the client wants to be sure that later writes find their space.
    server.qemu_io(&image.spec, &["write -z 32M 4M", "read -P 0 32M 4M"]);
    assert_eq!(cluster.object_count(&image), 1);
    server.qemu_io(&image.spec, &["write -P 1 0 8M", "write -z 5001 4097"]);
    server.qemu_io(&image.spec, &["read -P 1 0 5001", "read -P 0 5001 4097", "read -P 1 9098 100k"]);
    server.qemu_io(
        &image.spec,
        &["write -z -u 1M 6M", "read -P 0 1M 6M", "read -P 1 7M 1M", "read -P 1 500k 524k"],
    );
    let digest = server.digest(&image.spec);
    server.stop();
    assert_eq!(cluster.librbd_digest(&image.spec), digest);
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn every_layout_of_an_image_holds_the_same_data_for_librbd() {
    let cluster = Cluster::shared();
    cluster.run(
        "ceph osd pool create otherdata 8 && rbd pool init otherdata && rbd namespace create rbdpool/ns",
    );
    cluster.run(
        "ceph auth caps client.qemu mon 'profile rbd' osd 'profile rbd pool=rbdpool, profile rbd pool=otherdata'",
    );
    let sample = sample(cluster);
    for (name, options) in [
        ("rbdpool/striped", "--stripe-unit 64K --stripe-count 5"),
        ("rbdpool/smallest", "--object-size 4K --image-feature layering,exclusive-lock"),
        ("rbdpool/largest", "--object-size 32M"),
        ("rbdpool/elsewhere", "--data-pool otherdata"),
        ("rbdpool/plain", "--image-feature layering"),
        ("rbdpool/ns/inside", ""),
    ] {
        cluster.run(&format!("rbd create {name} --size 64M {options}"));
        let server = Server::serve(cluster, &[name]);
        run(&format!("qemu-img convert -n -f raw -O raw {sample} '{}'", server.uri(name)));
        fio_verify(&server.uri(name), "--offset=16M --size=8M --bsrange=4k-256k --blockalign=4k");
        let digest = server.digest(name);
        server.stop();
        assert_eq!(cluster.librbd_digest(name), digest, "{name}");
        if cluster.run(&format!("rbd info {name}")).contains("object-map") {
            cluster.assert_object_map_is_correct(name);
        }
        let again = Server::serve(cluster, &[name]);
        assert_eq!(again.digest(name), digest, "{name}");
    }
}

#[test]
fn one_server_has_several_exports_and_clients_have_several_connections() {
    let cluster = Cluster::shared();
    let [first, second] = ["64M", "32M"].map(|size| cluster.create(&format!("--size {size}")));
    let server = Server::serve(cluster, &[&first.spec, &second.spec]);
    let sample = sample(cluster);
    run(&format!("nbdcopy --connections=4 --requests=64 {sample} '{}'", server.uri(&first.spec)));
    run(&format!("qemu-img compare -f raw -F raw {sample} '{}'", server.uri(&first.spec)));
    server.qemu_io(&second.spec, &["read -P 0 0 32M", "write -P 2 0 1M"]);
    run(&format!("qemu-img compare -f raw -F raw {sample} '{}'", server.uri(&first.spec)));
    let list = json(&run(&format!("nbdinfo --list --json 'nbd+unix:///?socket={}'", server.socket())));
    assert_eq!(list["exports"].as_array().unwrap().len(), 2, "{list}");
    let nameless = start(&format!("nbdinfo --size '{}'", server.uri(""))).finish();
    assert!(!nameless.status.success(), "the empty name is ambiguous: {nameless}");
}

#[test]
fn a_read_only_export_refuses_writes() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &["--read-only", &image.spec]);
    let info = json(&run(&format!("nbdinfo --json '{}'", server.uri(&image.spec))));
    assert_eq!(info["exports"][0]["is_read_only"], true, "{info}");
    let write = start(&format!("qemu-io -f raw -c 'write 0 4k' '{}'", server.uri(&image.spec))).finish();
    assert!(!write.status.success(), "{write}");
    assert_eq!(cluster.object_count(&image), 0);
}

#[test]
fn the_default_socket_is_private_and_the_printed_line_works_as_it_is() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let runtime = tempfile::tempdir_in(cluster.dir()).unwrap();
    let mut command = program();
    command.env("XDG_RUNTIME_DIR", runtime.path());
    command.args(["serve", &image.spec, "--id", "qemu", "--conf", &cluster.conf()]);
    let server = Server::spawn(cluster, &mut command, None);
    assert!(server.socket().starts_with(runtime.path().to_str().unwrap()), "{}", server.socket());
    let mode = fs::metadata(server.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    // What follows `file=` up to the next option of -drive is a name that any QEMU tool takes.
    let printed = server.printed();
    let name = printed.split("file=").nth(1).unwrap().split([',', '\'', '"', ' ', '\n']).next().unwrap();
    assert!(run(&format!("qemu-img info -f raw '{name}'")).contains("16 MiB"));
    let socket = server.socket().to_owned();
    server.stop();
    assert!(!fs::exists(&socket).unwrap(), "{socket} was left behind");
}

#[test]
fn an_existing_drive_value_of_qemu_can_be_pasted() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let mut command = program();
    let pasted = format!(
        "rbd:{image}:id=qemu:keyring={}:conf={}",
        cluster.file("client.qemu.keyring").replace(':', "\\:"),
        cluster.conf()
    );
    let server = Server::serve_with(cluster, command.args(["serve", "--export-name", "disk", &pasted]));
    server.qemu_io("disk", &["write -P 3 0 64k", "read -P 3 0 64k"]);
}

#[test]
fn tcp_on_loopback_serves_too() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let mut command = program();
    command.args(["serve", &image.spec, "--id", "qemu", "--conf", &cluster.conf()]);
    command.args(["--listen", &address.to_string()]);
    let _server = Server::spawn(cluster, &mut command, Some(String::new()));
    run(&format!("qemu-io -f raw -c 'write -P 4 0 64k' -c 'read -P 4 0 64k' 'nbd://{address}/{image}'"));
}

#[test]
fn the_first_reply_comes_within_150_ms_of_the_start() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let socket = cluster.file("first.sock");
    let first_reply = || {
        let began = Instant::now();
        let mut child = program()
            .args(["serve", &image.spec, "--id", "qemu", "--conf", &cluster.conf(), "--socket", &socket])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut greeting = [0; 18];
        let took = loop {
            if UnixStream::connect(&socket).and_then(|mut stream| stream.read_exact(&mut greeting)).is_ok() {
                break began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(20), "no greeting");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        run(&format!("kill -TERM {}", child.id()));
        assert!(child.wait().unwrap().success());
        took
    };
    let quickest = (0..5).map(|_| first_reply()).min().unwrap();
    assert!(quickest < Duration::from_millis(150), "{quickest:?}");
}

#[test]
fn sigterm_lets_requests_finish_and_leaves_neither_watch_nor_lock() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&format!(
        "cd {} && fio --thread --name=load --ioengine=nbd --uri='{}' --rw=randwrite --bs=4k --iodepth=32 --size=64M \
         --time_based --runtime=60",
        dir.path().display(),
        server.uri(&image.spec)
    ));
    wait_until("objects appear", Duration::from_secs(30), || {
        (cluster.object_count(&image) > 0).then_some(())
    });
    assert!(writer.is_running());
    server.stop();
    drop(writer);
    assert_eq!(
        json(&cluster.run(&format!("rbd status {image} --format json")))["watchers"],
        serde_json::json!([])
    );
    assert_eq!(json(&cluster.run(&format!("rbd lock ls {image} --format json"))), serde_json::json!([]));
    cluster.assert_object_map_is_correct(&image.spec);
}
