//! A client that pushes, in every way that there is to do it, and reads back what it has pushed.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use wharf_content::Digest;
use wharf_images::media_types;

use super::{Crowd, Draws, Result, image::Image, pulling::pull, visitor::Visitor};

/// The sizes of the layers of an image that is new, in bytes.
const LAYERS: &[usize] = &[1_000, 40_000, 150_000];
/// The same of one in so many, which has some weight.
const HEAVY: &[usize] = &[3_000_000, 300_000];
const HEAVY_ONE_IN: u64 = 16;
/// How long all clients push the same image, before it is another one for all.
const COMMON_FOR: u64 = 2;

pub(super) async fn client(crowd: &Crowd, number: u32) -> Result<()> {
    let mut client = Client {
        visitor: Visitor::new(crowd.options.registry),
        draws: Draws::of(u64::from(number) + 1_000),
        repository: format!("load/of-{number}"),
    };
    let mut last: Option<Image> = None;
    for turn in 0_u64.. {
        if !crowd.goes_on() {
            break;
        }
        let seed = (u64::from(number) + 1) * 1_000_000 + turn;
        let pushed = match (turn % 8, &last) {
            (2 | 6, Some(image)) => client.again(crowd, image, turn).await,
            (3 | 7, _) => client.common(crowd).await,
            (5, _) => client.gone(seed).await,
            _ => {
                let layers = if turn % HEAVY_ONE_IN == 0 { HEAVY } else { LAYERS };
                let image = Image::new(seed, layers);
                let pushed =
                    client.keep(crowd, &client.repository.clone(), &format!("t{turn}"), &image).await;
                last = Some(image);
                pushed
            }
        };
        pushed.map_err(|error| format!("push {turn} of client {number}: {error}"))?;
        crowd.pushes.fetch_add(1, Ordering::Relaxed);
        if turn % 5 == 4 {
            client.visitor.reconnect();
        }
    }
    Ok(())
}

struct Client {
    visitor: Visitor,
    draws: Draws,
    repository: String,
}

impl Client {
    /// Pushes an image that stays, and reads it.
    async fn keep(&mut self, crowd: &Crowd, repository: &str, tag: &str, image: &Image) -> Result<()> {
        self.push(repository, tag, image, None).await?;
        crowd.keep(repository, tag, &image.digest);
        pull(&mut self.visitor, repository, tag, Some(&image.digest)).await.map(drop)
    }

    /// Pushes what is there already into another repository: its blobs are mounted.
    async fn again(&mut self, crowd: &Crowd, image: &Image, turn: u64) -> Result<()> {
        let (from, repository) = (self.repository.clone(), format!("{}/again", self.repository));
        self.push(&repository, &format!("t{turn}"), image, Some(&from)).await?;
        crowd.keep(&repository, &format!("t{turn}"), &image.digest);
        Ok(())
    }

    /// Pushes what all others push at this moment, under the same name.
    async fn common(&mut self, crowd: &Crowd) -> Result<()> {
        let round = crowd.begun.elapsed().as_secs() / COMMON_FOR;
        let image = Image::new(round + 1, LAYERS);
        self.keep(crowd, "load/common", &format!("t{round}"), &image).await
    }

    /// Pushes an image and deletes its tag.
    async fn gone(&mut self, seed: u64) -> Result<()> {
        let (repository, image) = (self.repository.clone(), Image::new(seed, &LAYERS[..1]));
        self.push(&repository, "gone", &image, None).await?;
        let path = format!("/v2/{repository}/manifests/gone");
        self.visitor.ask("DELETE", &path, &[], Bytes::new()).await?.expect(202)?;
        self.visitor.get(&path).await?.expect(404).map(drop)
    }

    async fn push(&mut self, repository: &str, tag: &str, image: &Image, from: Option<&str>) -> Result<()> {
        for (digest, bytes) in &image.blobs {
            let head = format!("/v2/{repository}/blobs/{digest}");
            let known = self.visitor.ask("HEAD", &head, &[], Bytes::new()).await?;
            match (known.status, from) {
                (404, _) => self.upload(repository, digest, bytes).await?,
                (200, Some(from)) => {
                    let path = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}");
                    self.visitor.ask("POST", &path, &[], Bytes::new()).await?.expect(201)?;
                }
                // Half of those that know that it is there push it all the same.
                (200, None) if self.draws.draw().is_multiple_of(2) => {
                    self.upload(repository, digest, bytes).await?;
                }
                _ => drop(known.expect(200)?),
            }
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let media_type = [("Content-Type", media_types::OCI_MANIFEST)];
        let answer =
            self.visitor.ask("PUT", &path, &media_type, image.manifest.clone()).await?.expect(201)?;
        let told = answer.header("docker-content-digest")?;
        if told == image.digest.as_str() {
            Ok(())
        } else {
            Err(format!("{} was taken for {told}", image.digest))
        }
    }

    /// Uploads a blob: in one request, in two, or in pieces.
    async fn upload(&mut self, repository: &str, digest: &Digest, bytes: &Bytes) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let whole = [("Content-Type", "application/octet-stream")];
        let draw = self.draws.draw() % 3;
        if draw == 0 {
            let path = format!("{path}?digest={digest}");
            return self.visitor.ask("POST", &path, &whole, bytes.clone()).await?.expect(201).map(drop);
        }
        let mut place = self.visitor.ask("POST", &path, &[], Bytes::new()).await?.expect(202)?;
        let mut rest = bytes.clone();
        if draw == 1 {
            let middle = bytes.len() / 2;
            for (piece, first) in [(bytes.slice(..middle), 0), (bytes.slice(middle..), middle)] {
                let range = format!("{first}-{}", first + piece.len() - 1);
                let headers = [whole[0], ("Content-Range", &range)];
                place = self
                    .visitor
                    .ask("PATCH", place.header("location")?, &headers, piece)
                    .await?
                    .expect(202)?;
            }
            rest = Bytes::new();
        }
        let path = format!("{}?digest={digest}", place.header("location")?);
        self.visitor.ask("PUT", &path, &whole, rest).await?.expect(201).map(drop)
    }
}
