"""DiT (Peebles & Xie 2023): its file and its diffusers folder."""
