//! What stock clients of iroh-blobs may have of this node, and the tickets that they are given. Who they are is said when the
//! node is started: see [`NodeBuilder::serve_stock`](super::NodeBuilder::serve_stock).

use std::net::SocketAddr;

use super::{Node, blocking};
use crate::Error;
use crate::content::put_varint;
use crate::exchange::inbox_path;
use crate::model::{BlobHash, DistributionId, EndpointId};

/// What was named for stock clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockTicket {
    /// The hash that they ask for: of a blob, or of a collection of names and files.
    pub hash: BlobHash,
    /// What they are given, as `sendme receive` takes it: where this node is, the hash, and whether it is a collection.
    pub ticket: String,
}

impl Node {
    /// Lets the stock clients that the node serves have one blob, from now on and after restarts, and keeps the blob for it.
    ///
    /// # Errors
    /// When the store's index cannot be written.
    pub async fn allow_stock_blob(&self, hash: BlobHash) -> Result<StockTicket, Error> {
        let content = self.content.clone();
        blocking(move || content.allow_stock(&hash)).await??;
        Ok(self.stock_ticket(hash, false))
    }

    /// The same for the files of a distribution, by their names.
    ///
    /// # Errors
    /// [`Error::NoDistribution`], [`Error::NotForStock`] while its list of files is not here, or when it has too many for a
    /// collection, or when the store cannot be written.
    pub async fn allow_stock(&self, id: DistributionId) -> Result<StockTicket, Error> {
        let files = self.files(id).await?.ok_or(Error::NotForStock("the list of its files is not here yet"))?;
        let count = files.len() as u64;
        // As an inbox names them.
        let named = |(index, file)| (inbox_path(&id, index, count, &file).as_str().to_owned(), file.blob);
        let files: Vec<_> = (0..).zip(files).map(named).collect();
        let content = self.content.clone();
        let root = blocking(move || content.allow_stock_files(&files)).await??;
        Ok(self.stock_ticket(root.ok_or(Error::NotForStock("it has too many files for a collection"))?, true))
    }

    /// Lets stock clients have the blob or the collection of this hash no more. What is under way is not cut off.
    ///
    /// # Errors
    /// When the store's index cannot be written.
    pub async fn forbid_stock(&self, hash: BlobHash) -> Result<(), Error> {
        let content = self.content.clone();
        Ok(blocking(move || content.forbid_stock(&hash)).await??)
    }

    fn stock_ticket(&self, hash: BlobHash, collection: bool) -> StockTicket {
        StockTicket { hash, ticket: ticket(&self.id(), &self.addresses(), &hash, collection) }
    }
}

/// A ticket as iroh-blobs reads it (`ticket.rs`): fields one after the other as postcard writes them, in base 32 behind "blob".
fn ticket(node: &EndpointId, addresses: &[SocketAddr], hash: &BlobHash, collection: bool) -> String {
    // The only form that there is, and no relay.
    let mut bytes = [&[0][..], node.as_bytes(), &[0]].concat();
    put_varint(&mut bytes, addresses.len() as u64);
    for address in addresses {
        match address {
            SocketAddr::V4(address) => {
                bytes.push(0);
                bytes.extend(address.ip().octets());
            }
            SocketAddr::V6(address) => {
                bytes.push(1);
                bytes.extend(address.ip().octets());
            }
        }
        put_varint(&mut bytes, address.port().into());
    }
    bytes.push(collection.into());
    bytes.extend(hash.as_bytes());
    format!("blob{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}
