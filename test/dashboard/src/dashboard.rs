//! A Grafana dashboard, as far as it is drawn here.

use std::error::Error;
use std::path::Path;

use serde::Deserialize;

/// Its panels, in rows of three.
#[derive(Deserialize)]
pub struct Dashboard {
    pub panels: Vec<Panel>,
}

#[derive(Deserialize)]
pub struct Panel {
    pub title: String,
    #[serde(rename = "fieldConfig")]
    pub fields: Fields,
    pub targets: Vec<Target>,
}

#[derive(Deserialize)]
pub struct Fields {
    pub defaults: Defaults,
}

#[derive(Deserialize)]
pub struct Defaults {
    /// Grafana's name of a unit.
    pub unit: String,
}

/// A query, and what its lines are called.
#[derive(Deserialize)]
pub struct Target {
    pub expr: String,
    #[serde(rename = "legendFormat")]
    pub legend: String,
}

impl Dashboard {
    pub fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }
}
