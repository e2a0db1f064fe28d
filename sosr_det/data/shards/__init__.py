"""Images in tar files of some hundred MB, local or remote: written, verified, read by offset, and sampled in order."""
