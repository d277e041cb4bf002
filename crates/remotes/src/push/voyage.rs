//! From a cargo to a destination: what was planned is sent, tier after tier, and counted. What a push and a copy have in common.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use wharf_content::{Descriptor, Error, ErrorKind, Result, ResultExt};
use wharf_images::{
    progress::Event,
    transport::{Delivery, Place, Pusher, Shipment},
};

use super::{
    PushOptions, Pushed,
    cargo::Cargo,
    companions::{self, Companions},
    parcel::Parcel,
    plan::Plan,
};

/// A cargo on its way.
pub(crate) struct Voyage<'a> {
    pub(crate) cargo: Arc<dyn Cargo>,
    pub(crate) pusher: Arc<dyn Pusher>,
    /// What is asked whether it has a manifest with all that belongs to it, before that is looked into.
    pub(crate) asks_first: bool,
    pub(crate) options: &'a PushOptions,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicUsize,
    mounted: AtomicUsize,
    existing: AtomicUsize,
}

impl<'a> Voyage<'a> {
    pub(crate) fn new(cargo: Arc<dyn Cargo>, pusher: Arc<dyn Pusher>, options: &'a PushOptions) -> Self {
        Self { cargo, pusher, asks_first: false, options, counts: Arc::default() }
    }

    /// Asks the destination for whole manifests before each of their parts.
    pub(crate) fn asking_first(mut self) -> Self {
        self.asks_first = true;
        self
    }

    /// Sends an image, called `name` where it comes from, and then what refers to it.
    pub(crate) async fn run(
        self,
        name: &str,
        target: &Descriptor,
        companions: Option<&Companions<'_>>,
    ) -> Result<Pushed> {
        let plan = Plan::make(&self, target).await?;
        if let Some(pinned) = self.pusher.pinned().filter(|pinned| **pinned != plan.root.digest) {
            return Err(Error::failed_precondition(format!(
                "digest mismatch: the destination is pinned to {pinned}, and what is pushed is {}",
                plan.root.digest
            )));
        }
        if plan.skipped > 0 {
            let text = format!(
                "{} layers of {name:?} may not be distributed and are not pushed; --allow-non-distributable pushes them",
                plan.skipped
            );
            self.options.sink.event(&Event::Warning { text: &text });
        }
        self.send_all(&plan).await?;
        let referrers = match companions {
            Some(companions) => companions::bring(&self, companions, plan.documents).await?,
            None => 0,
        };
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Ok(Pushed {
            target: plan.root,
            sent: count(&self.counts.sent),
            mounted: count(&self.counts.mounted),
            existing: count(&self.counts.existing),
            skipped: plan.skipped,
            referrers,
        })
    }

    /// The same voyage to another name of the destination's: what is sent is counted with this one.
    pub(super) fn to(&self, pusher: Arc<dyn Pusher>) -> Self {
        let (cargo, counts) = (Arc::clone(&self.cargo), Arc::clone(&self.counts));
        Self { cargo, pusher, asks_first: self.asks_first, options: self.options, counts }
    }

    /// Sends what was planned.
    pub(super) async fn send_all(&self, plan: &Plan) -> Result<()> {
        for descriptor in &plan.existing {
            self.note(descriptor, &Delivery::Exists);
        }
        for tier in &plan.tiers {
            // Made before the stream, or the compiler cannot tell that the whole may move between threads.
            let sends: Vec<_> =
                tier.iter().map(|(descriptor, place)| self.send(descriptor, *place)).collect();
            stream::iter(sends).buffer_unordered(self.options.concurrency.get()).try_collect::<()>().await?;
        }
        Ok(())
    }

    async fn send(&self, descriptor: &Descriptor, place: Place) -> Result<()> {
        let delivery = self.deliver(descriptor, place).await;
        let delivery = delivery
            .context(|| format!("cannot push {} ({:?})", descriptor.digest, descriptor.media_type))?;
        self.note(descriptor, &delivery);
        Ok(())
    }

    fn note(&self, descriptor: &Descriptor, delivery: &Delivery) {
        let (event, count) = match delivery {
            Delivery::Sent => (Event::Done { descriptor }, &self.counts.sent),
            Delivery::Mounted(from) => (Event::Mounted { descriptor, from }, &self.counts.mounted),
            _ => (Event::Exists { descriptor }, &self.counts.existing),
        };
        self.options.sink.event(&event);
        count.fetch_add(1, Ordering::Relaxed);
    }

    async fn deliver(&self, descriptor: &Descriptor, place: Place) -> Result<Delivery> {
        loop {
            let source = self.cargo.source(descriptor).await?;
            let sink = Arc::clone(&self.options.sink);
            let parcel = Parcel::new(source, Arc::clone(&self.cargo), descriptor.clone(), sink);
            let origins = self.cargo.origins(descriptor, self.pusher.repository()).await?;
            let shipment = Shipment::new(descriptor.clone(), place, Arc::new(parcel)).with_origins(origins);
            match self.pusher.push(&shipment).await {
                Err(error)
                    if error.kind() == ErrorKind::FailedPrecondition && self.cargo.refused(descriptor) =>
                {
                    self.options.sink.event(&Event::Retried { descriptor, error: &error });
                }
                delivery => return delivery,
            }
        }
    }
}
