//! What is said on standard error while something takes long.

use crate::common::Cluster;
use crate::{BOTH, Side};

#[test]
fn progress_is_told_in_the_words_of_rbd() {
    let cluster = Cluster::shared();
    let images = BOTH.map(|side| (side, cluster.create("--size 10M")));
    for (command, fails) in [
        ("resize IMAGE --size 20M", false),
        ("snap create IMAGE@s", false),
        ("snap create IMAGE@s", true),
        ("rm IMAGE", true),
    ] {
        let [ours, theirs] = images.each_ref().map(|(side, image)| {
            let output = side.try_run(cluster, &command.replace("IMAGE", &image.spec));
            assert_eq!(!output.status.success(), fails, "{output}");
            last_line(&output.stderr)
        });
        assert_eq!(ours, theirs, "{command}");
    }
    let (_, image) = &images[0];
    let quiet = Side::Ours.try_run(cluster, &format!("resize {image} --size 30M --no-progress"));
    assert_eq!(quiet.stderr, "", "{quiet}");
}

/// The last state of the first line that is written over and over.
fn last_line(progress: &str) -> String {
    let line = progress.lines().find(|line| line.contains("% complete")).unwrap_or_default();
    line.rsplit('\r').next().unwrap_or_default().to_owned()
}
