//! A golden image and the machines made from it: imported through NBD, a snapshot, a clone for each machine, flattened
//! while the machine runs, and all of it removed.
#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use common::{Cluster, Guest, Image, Server, Tool, json, run};

/// Says what it was born with and what it has now, and works for a while.
const MACHINE: &str = "
    echo born: $(cat /mnt/golden/* 2>/dev/null | md5sum)
    [ ! -e /mnt/sums ] || md5sum -c /mnt/sums
    [ -e /mnt/golden ] || { mkdir /mnt/golden; head -c 9m /dev/urandom >/mnt/golden/seed; }
    head -c 3m /dev/urandom >/mnt/own
    md5sum /mnt/own /mnt/golden/seed >/mnt/sums
    sync
    echo own: $(md5sum </mnt/own)
    for n in $(seq 12); do
        head -c 1m /dev/urandom >/mnt/work$((n % 4))
        sync
        echo worked $n
    done
    rm /mnt/work*
    fstrim /mnt
    md5sum -c /mnt/sums
    umount /mnt
    e2fsck -f -n /dev/vda2";

fn boot(server: &Server, image: &Image) -> Guest {
    Guest::boot_disk(&[server.drive(&image.spec)])
}

fn golden_image_and_its_machines(tool: Tool) {
    let cluster = Cluster::shared();
    let image = |name: &str| Image { spec: format!("rbdpool/{name}-{}", format!("{tool:?}").to_lowercase()) };
    let (golden, one, other) = (image("golden"), image("one"), image("other"));
    let run_tool = |args: String| tool.run(cluster, &args);
    let children = || {
        let listed = json(&run_tool(format!("children --format json {golden}@v1")));
        let names =
            listed.as_array().unwrap().iter().map(|child| child["image"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let parent_of = |image: &Image| json(&run_tool(format!("info --format json {image}")))["parent"].clone();
    let name_of = |image: &Image| image.spec.split('/').next_back().unwrap().to_owned();

    // A disk that booted once, so that the golden image is not all new.
    let disk = cluster.file(&format!("{tool:?}.img"));
    Guest::make_disk(&disk, MACHINE);
    Guest::boot_disk(&[format!("file={disk},format=raw,if=virtio")]).finish();
    run_tool(format!("create --size 128M {golden}"));
    let server = Server::serve(cluster, &[&golden.spec]);
    run(&format!("nbdcopy --destination-is-zero --flush '{disk}' '{}'", server.uri(&golden.spec)));
    server.stop();
    let digest = run(&format!("sha256sum <{disk}")).trim().to_owned();
    assert_eq!(cluster.librbd_digest(&golden.spec), digest, "what was imported");

    run_tool(format!("snap create --no-progress {golden}@v1"));
    run_tool(format!("snap protect {golden}@v1"));
    for clone in [&one, &other] {
        run_tool(format!("clone {golden}@v1 {clone}"));
        assert_eq!(parent_of(clone)["image"], name_of(&golden));
    }
    assert_eq!(children(), [name_of(&one), name_of(&other)]);
    tool.try_run(cluster, &format!("snap rm --no-progress {golden}@v1")).failure();
    tool.try_run(cluster, &format!("rm --no-progress {golden}")).failure();

    // Both at once, and one of them does not need its parent any more while it works.
    let servers = [&one, &other].map(|clone| Server::serve(cluster, &[&clone.spec]));
    let mut machines = [boot(&servers[0], &one), boot(&servers[1], &other)];
    let [born_one, born_other] = [0, 1].map(|index: usize| machines[index].wait_for("born:"));
    assert_eq!(born_one, born_other);
    let [own_one, own_other] = [0, 1].map(|index: usize| machines[index].wait_for("own:"));
    assert_ne!(own_one, own_other);
    machines[0].wait_for("worked 1");
    run_tool(format!("flatten --no-progress {one}"));
    assert!(parent_of(&one).is_null(), "{}", parent_of(&one));
    tool.try_run(cluster, &format!("rm --no-progress {other}")).failure();
    let [first, second] = machines;
    first.finish();
    second.finish();
    for spec in [golden.spec.clone(), format!("{golden}@v1")] {
        assert_eq!(cluster.librbd_digest(&spec), digest, "{spec} has changed");
    }
    servers.into_iter().for_each(Server::stop);
    for clone in [&one, &other] {
        cluster.assert_object_map_is_correct(&clone.spec);
    }

    // All goes but the machine that stands by itself.
    assert_eq!(children(), [name_of(&other)]);
    tool.try_run(cluster, &format!("snap unprotect {golden}@v1")).failure();
    run_tool(format!("rm --no-progress {other}"));
    run_tool(format!("snap unprotect {golden}@v1"));
    run_tool(format!("snap rm --no-progress {golden}@v1"));
    run_tool(format!("rm --no-progress {golden}"));
    let listed = run_tool("ls rbdpool".to_owned());
    assert!(listed.lines().any(|name| name == name_of(&one)), "{listed}");
    assert!(!listed.contains(&name_of(&golden)) && !listed.contains(&name_of(&other)), "{listed}");
    let server = Server::serve(cluster, &[&one.spec]);
    let mut machine = boot(&server, &one);
    assert_eq!(machine.wait_for("born:"), born_one);
    machine.finish();
    server.stop();
    cluster.assert_object_map_is_correct(&one.spec);
}

#[test]
fn a_golden_image_and_its_machines_with_the_commands_of_rbd() {
    golden_image_and_its_machines(Tool::Rbd);
}

#[test]
fn a_golden_image_and_its_machines_with_our_commands() {
    golden_image_and_its_machines(Tool::Ours);
}
