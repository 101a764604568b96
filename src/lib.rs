//! vectorkeep
pub mod api;
pub mod app;
pub mod config;
pub mod demo;
pub mod disk;
pub mod engine;
pub mod error;
pub mod health;
pub mod jobs;
pub mod model;
pub mod operations;
pub mod progress;
pub mod repository;
pub mod telemetry;
