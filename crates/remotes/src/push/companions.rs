//! What refers to an image goes with it: signatures, bills of materials, attestations, and what refers to those.
//!
//! They are looked for level by level: the referrers of the image's index and manifests, then theirs. Each is sent with what it is made of,
//! by its digest, after its subject. Signatures of before there were referrers are under tags made of a digest, and go to the same tags: of
//! the image's index and manifests each of cosign's tags is asked for.

use std::{collections::HashSet, mem, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use wharf_content::{Descriptor, Digest, Error, ErrorKind, Result, ResultExt};
use wharf_images::{
    decode,
    progress::Event,
    referrers::{ReferrersProvider, attachment_tags},
    transport::{Resolved, Resolver},
};

use super::{plan::Plan, voyage::Voyage};

/// The most referrers that are looked at for an image, those of referrers among them.
const MAX_REFERRERS: usize = 10_000;
/// How deep referrers may refer to referrers: a signature of a bill of materials is the second level.
const MAX_LEVELS: usize = 16;

/// Where referrers are listed, and where tags are.
pub(crate) struct Companions<'a> {
    /// At the place that the image comes from.
    here: Arc<dyn ReferrersProvider>,
    /// At the destination, where that lists any.
    there: Option<Arc<dyn ReferrersProvider>>,
    /// The image at the place that it comes from, where that has names with tags.
    from: Option<Named<'a>>,
    to: Named<'a>,
}

/// A name at a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub(crate) resolver: &'a dyn Resolver,
    pub(crate) name: &'a str,
}

impl Named<'_> {
    fn beside(self, tag: &str) -> Option<String> {
        self.resolver.beside(self.name, tag)
    }
}

/// What the attachment tags of these documents mean, each with its tag; tags that are not there are left out. Where names have no tags
/// there is nothing.
pub(crate) async fn attachments(
    from: Named<'_>,
    documents: impl IntoIterator<Item = Digest>,
    concurrency: usize,
) -> Result<Vec<(String, Resolved)>> {
    let tags: HashSet<String> = documents.into_iter().flat_map(|digest| attachment_tags(&digest)).collect();
    let mut tags: Vec<String> = tags.into_iter().collect();
    tags.sort();
    let names: Vec<(String, String)> =
        tags.into_iter().filter_map(|tag| from.beside(&tag).map(|name| (tag, name))).collect();
    let asked = names.into_iter().map(|(tag, name)| async move {
        match from.resolver.resolve(&name).await {
            Ok(resolved) => Ok(Some((tag, resolved))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.context(format!("cannot find out whether there is {name}"))),
        }
    });
    let found: Vec<Option<_>> = stream::iter(asked).buffered(concurrency).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Sends what is under attachment tags of these documents, and gives how many there are.
async fn bring_attachments(
    voyage: &Voyage<'_>,
    companions: &Companions<'_>,
    documents: &[Descriptor],
) -> Result<usize> {
    let (Some(from), to) = (companions.from, companions.to) else { return Ok(0) };
    let is_named = documents.first().is_some_and(|document| {
        attachment_tags(&document.digest).first().is_some_and(|tag| to.beside(tag).is_some())
    });
    if !is_named {
        return Ok(0);
    }
    let digests: Vec<Digest> = documents.iter().map(|document| document.digest.clone()).collect();
    let found = attachments(from, digests, voyage.options.concurrency.get()).await?;
    let count = found.len();
    for (tag, resolved) in found {
        let Some(name) = to.beside(&tag) else { continue };
        let pusher = to.resolver.pusher(&name).await?;
        let voyage = voyage.to(Arc::clone(&pusher));
        let sent = async {
            let plan = Plan::whole(&voyage, &resolved.descriptor).await?;
            voyage.send_all(&plan).await
        };
        let sent = sent.await;
        let finished = pusher.finish().await;
        sent.context(|| format!("cannot bring {}, which is about the image", resolved.name))?;
        finished?;
    }
    Ok(count)
}

/// Sends the referrers of these documents, and gives how many there are.
pub(super) async fn bring(
    voyage: &Voyage<'_>,
    companions: &Companions<'_>,
    mut subjects: Vec<Descriptor>,
) -> Result<usize> {
    let attached = bring_attachments(voyage, companions, &subjects).await?;
    let mut seen: HashSet<Digest> = subjects.iter().map(|subject| subject.digest.clone()).collect();
    let (mut count, mut looked_at) = (0, 0);
    for _ in 0..MAX_LEVELS {
        let listed: Vec<(Descriptor, Vec<Descriptor>)> = stream::iter(mem::take(&mut subjects))
            .map(async |subject| {
                let referrers = companions.here.referrers(&subject).await;
                let referrers =
                    referrers.context(|| format!("cannot list what refers to {}", subject.digest))?;
                Ok::<_, Error>((subject, referrers))
            })
            .buffered(voyage.options.concurrency.get())
            .try_collect()
            .await?;
        for (subject, mut referrers) in listed {
            // What was brought is not looked at again; what was listed wrongly may yet refer to another one.
            referrers.retain(|referrer| !seen.contains(&referrer.digest));
            if referrers.is_empty() {
                continue;
            }
            let there = companions.listed_there(&subject).await?;
            for referrer in referrers {
                looked_at += 1;
                if looked_at > MAX_REFERRERS {
                    return Err(Error::resource_exhausted(format!(
                        "more than {MAX_REFERRERS} manifests are said to refer to the image: copy those that are wanted by their digests"
                    )));
                }
                let Some(documents) = bring_one(voyage, &subject, &referrer, &there).await? else { continue };
                count += 1;
                seen.extend(documents.iter().map(|document| document.digest.clone()));
                subjects.extend(documents);
            }
        }
        if subjects.is_empty() {
            return Ok(count + attached);
        }
    }
    Err(Error::resource_exhausted(format!("what refers to the image nests deeper than {MAX_LEVELS} levels")))
}

impl<'a> Companions<'a> {
    /// Those that are listed here, and those that are tagged where the image is called `from`, on their way to `to`.
    pub(crate) async fn between(
        here: Arc<dyn ReferrersProvider>,
        from: Option<Named<'a>>,
        to: Named<'a>,
    ) -> Result<Self> {
        let there = match to.resolver.referrers(to.name).await {
            Err(error) if error.kind() == ErrorKind::NotImplemented => None,
            there => Some(there?),
        };
        Ok(Self { here, there, from, to })
    }

    async fn listed_there(&self, subject: &Descriptor) -> Result<HashSet<Digest>> {
        let Some(there) = &self.there else { return Ok(HashSet::new()) };
        match there.referrers(subject).await {
            Ok(listed) => Ok(listed.into_iter().map(|referrer| referrer.digest).collect()),
            // A repository that is not there yet has none; where none can be listed, each is sent.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotImplemented) => {
                Ok(HashSet::new())
            }
            Err(error) => Err(error),
        }
    }
}

/// Sends one referrer, and gives the documents that it is made of; `None` where it is none.
async fn bring_one(
    voyage: &Voyage<'_>,
    subject: &Descriptor,
    referrer: &Descriptor,
    there: &HashSet<Digest>,
) -> Result<Option<Vec<Descriptor>>> {
    let Descriptor { media_type, digest, size, .. } = referrer;
    // What else a list says of it is for who reads the list.
    let referrer = Descriptor::new(media_type, digest.clone(), *size);
    let documents = voyage.cargo.documents();
    let leave = |why: &str| {
        let text = format!("{digest} is listed as a referrer of {} and left out: {why}", subject.digest);
        voyage.options.sink.event(&Event::Warning { text: &text });
        Ok(None)
    };
    // A list is what somebody says; whom a manifest refers to, it says itself.
    let decoded = match decode(documents.as_ref(), &referrer, &voyage.options.catalogue).await {
        Ok(Some(decoded)) => decoded,
        Ok(None) => return leave("nothing here knows its media type"),
        Err(error) if error.kind() == ErrorKind::NotFound => return leave("it is not there"),
        Err(error) => return Err(error),
    };
    if decoded.subject.is_none_or(|about| about.digest != subject.digest) {
        return leave("it does not refer to it");
    }
    let mut plan = Plan::of_referrer(voyage, &referrer).await?;
    if there.contains(digest) {
        // A place that lists it need not be given it again, if that has all of it.
        let parts = plan.tiers.iter().flatten().filter(|(part, _)| part.digest != *digest).count();
        if parts == 0 && plan.has_root {
            plan.tiers.clear();
            plan.existing.push(referrer);
        }
    }
    voyage.send_all(&plan).await.context(|| format!("cannot bring {digest}, which refers to the image"))?;
    Ok(Some(plan.documents))
}
