"""The stages that come with cascade; each folder is one kind, reached through the entry points ``cascade.stages``."""
