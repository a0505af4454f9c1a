//! Deployment models on a real API server, from what `moorgate render` prints: what is published is answered, what one
//! fleet has is nothing to the other, and what is replaced loses no request. `make test-deploy` does more of it.

use anyhow::{Result, ensure};
use moorgate_tests::models::{Model, SHORT, Stage, play};

#[test]
fn each_model_serves_and_is_upgraded_without_a_loss() -> Result<()> {
    let stage = Stage::new()?;
    for model in Model::ALL {
        let played = play(&stage, model, SHORT, |_| ())?;
        let report = &played.report;
        ensure!(report.sent > 100, "{}: only {} requests were sent", model.name(), report.sent);
        ensure!(report.lost.is_empty(), "{}: lost {:?}", model.name(), report.lost);
        ensure!(played.costs.relays.count > 0 && played.costs.bytes > 0, "{:?}", played.costs);
    }
    Ok(())
}
