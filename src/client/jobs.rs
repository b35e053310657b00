//! The jobs of a service that has a client.

use super::Client;
use crate::jobs::{JobsBuilder, Service};

impl Client {
    /// Jobs as closures, with the whole scheduler: see [`crate::jobs`]. They have a session of their own, and go on when
    /// the client is closed or dropped.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
    /// use fencron::Client;
    /// use fencron::jobs::Run;
    ///
    /// let fencron = Client::connect("memory:").await?; // or etcd://10.0.0.1:2379, or sqlite:PATH
    /// let report = async |run: Run| run.log(format_args!("{} under fence {}", run.id(), run.fence()));
    /// let jobs = fencron.jobs().job("report", "0 2 * * *", report).zone("Europe/Berlin").done().start().await?;
    ///
    /// let run = jobs.trigger("report", &[]).await?;
    /// println!("{}", jobs.verdict(&run).await?.output);
    /// jobs.stop(std::time::Duration::from_secs(30)).await?;
    /// # Ok::<(), fencron::Error>(()) }).unwrap();
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "jobs")))]
    pub fn jobs(&self) -> JobsBuilder {
        JobsBuilder::new(Service {
            store: self.store().clone(),
            locks: self.locks().clone(),
            node: self.node().to_owned(),
            timing: self.timing(),
            runs: std::sync::Arc::clone(&self.0.runs_jobs),
        })
    }
}
