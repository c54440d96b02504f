"""Build, load and save networks; the only place that imports smp and timm."""
