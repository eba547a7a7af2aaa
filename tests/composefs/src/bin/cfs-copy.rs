//! The copying client of composefs between the sockets of two services, which `cfsctl` itself has for two directories alone:
//! `cfs-copy FROM TO REPOSITORY IMAGE [zerocopy]`. The first opens the only repository that it has.

use anyhow::Context as _;
use composefs_ctl::copy_image;
use composefs_ctl::varlink::proxy::RepositoryProxy as _;
use zlink::tokio::unix::{Connection, connect};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, repository, image, how @ ..] = &arguments[..] else {
        anyhow::bail!("cfs-copy FROM TO REPOSITORY IMAGE [zerocopy]")
    };
    let (mut from, mut to) = (connect(from).await.context("the first socket")?, connect(to).await.context("the second socket")?);
    let (here, there) = (open(&mut from, None).await?, open(&mut to, Some(repository)).await?);
    let zerocopy = how.first().is_some_and(|how| how == "zerocopy");
    let copied = copy_image(&mut from, &mut to, here, there, &image.parse()?, Some(image), zerocopy).await?;
    to.close_repository(there).await?.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    println!("{}", copied.manifest_digest);
    Ok(())
}

async fn open(connection: &mut Connection, path: Option<&str>) -> anyhow::Result<u64> {
    let opened = connection.open_repository(path, None, None).await?;
    Ok(opened.map_err(|error| anyhow::anyhow!("{error:?}"))?.handle)
}
