//! Whatever becomes of its connections, the client applies each operation once, and in order.

use std::collections::HashMap;

use futures::future::join_all;
use rados::{IoCtx, Operation, SnapContext, SnapId};

use crate::injector::SocketFailures;
use crate::placement::connect;
use crate::scene::shared_cluster;

const OBJECTS: usize = 16;
/// To each object.
const APPENDS: usize = 640;
/// Under way on each object.
const DEPTH: usize = 8;
/// Length of a record in bytes.
const RECORD: usize = 8;

/// Appends the records 0, 1, 2, ... to an object, some at a time.
async fn append_all(pool: &IoCtx, object: &str) {
    for first in (0..APPENDS).step_by(DEPTH) {
        let appends = (first..first + DEPTH).map(|record| {
            let operation = Operation::new().append((record as u64).to_le_bytes().to_vec());
            pool.write(object, operation, &SnapContext::default())
        });
        // Submitted in this order; the futures are only the answers.
        let submitted: Vec<_> = appends.collect();
        for appended in join_all(submitted).await {
            appended.unwrap();
        }
    }
}

#[test]
fn ten_thousand_appends_are_each_applied_once_and_in_order_under_socket_failures() {
    let (cluster, _turn) = shared_cluster();
    SocketFailures::set(cluster, 200);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let contents: HashMap<String, Vec<u8>> = runtime.block_on(async {
        let client = connect(cluster).await;
        let pool = client.pool("rbdpool").await.unwrap();
        let objects: Vec<_> = (0..OBJECTS).map(|number| format!("appended-{number}")).collect();
        join_all(objects.iter().map(|object| append_all(&pool, object))).await;
        SocketFailures::set(cluster, 0);
        let mut contents = HashMap::new();
        for object in objects {
            let read = Operation::new().read(0, 2 * (APPENDS * RECORD) as u64);
            contents.insert(
                object.clone(),
                pool.read(&object, read, SnapId::HEAD).await.unwrap().data(0).to_vec(),
            );
        }
        contents
    });
    let expected: Vec<u64> = (0..APPENDS as u64).collect();
    for (object, data) in contents {
        let records: Vec<u64> =
            data.chunks(RECORD).map(|record| u64::from_le_bytes(record.try_into().unwrap())).collect();
        assert_eq!(records, expected, "{object}");
    }
    cluster.run("rados -p rbdpool ls | grep ^appended- | xargs rados -p rbdpool rm");
}
