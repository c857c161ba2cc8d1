"""Multi-task fine-tuning of a guardian: data mix, loss, loop, artefact."""
