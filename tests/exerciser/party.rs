//! Who has the image open.

use crate::common::nbd::{Answer, Client, Request};
use crate::common::{Backend, Cluster, Kind};

pub(crate) struct Party {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    image: String,
    open: Option<(Backend, Client)>,
}

impl Party {
    pub(crate) fn open(cluster: &Cluster, kind: Kind, number: usize, image: &str) -> Self {
        let name = match kind {
            Kind::Ours => format!("ours{number}"),
            Kind::Librbd => format!("librbd{number}"),
        };
        let mut party = Self { name, kind, image: image.to_owned(), open: None };
        party.reopen(cluster);
        party
    }

    pub(crate) fn reopen(&mut self, cluster: &Cluster) {
        self.close();
        let backend = Backend::serve(self.kind, cluster, &self.image);
        let client = Client::connect(backend.socket(), &self.image).expect("the server answers");
        self.open = Some((backend, client));
    }

    /// Sees the size of now. QEMU has to open the image again for that.
    pub(crate) fn reconnect(&mut self, cluster: &Cluster) {
        match self.kind {
            Kind::Librbd => self.reopen(cluster),
            Kind::Ours => {
                let (backend, client) = self.open.take().expect("open");
                client.disconnect();
                let client = Client::connect(backend.socket(), &self.image).expect("the server answers");
                self.open = Some((backend, client));
            }
        }
    }

    pub(crate) fn close(&mut self) {
        if let Some((backend, client)) = self.open.take() {
            client.disconnect();
            backend.stop();
        }
    }

    pub(crate) fn kill(&mut self) {
        let (backend, _) = self.open.take().expect("open");
        backend.kill();
    }

    /// The size that it knows, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.open.as_ref().expect("open").1.size
    }

    pub(crate) fn knows_status(&self) -> bool {
        self.open.as_ref().expect("open").1.knows_status
    }

    /// # Panics
    /// If the request fails.
    pub(crate) fn perform(&mut self, request: Request, data: &[u8]) -> Answer {
        let cookie = self.submit(request, data);
        self.wait(cookie, request)
    }

    pub(crate) fn submit(&mut self, request: Request, data: &[u8]) -> u64 {
        let name = &self.name;
        let (_, client) = self.open.as_mut().expect("open");
        client
            .submit(request, data)
            .unwrap_or_else(|error| panic!("{name} does not take {request:x?}: {error}"))
    }

    pub(crate) fn wait(&mut self, cookie: u64, request: Request) -> Answer {
        let name = &self.name;
        let (_, client) = self.open.as_mut().expect("open");
        client.wait(cookie).unwrap_or_else(|failure| panic!("{name}: {request:x?}: {failure}"))
    }
}
