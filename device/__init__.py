"""The part of affectd that runs on the wearer's device: sources, pipeline, inference, sinks, daemon."""
