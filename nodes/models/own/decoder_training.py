"""Autoencoders of which only the decoder is trained, so that denoisers of their latents stay valid."""

from __future__ import annotations

from dataclasses import replace

from guidegraph.nodes.models.own.autoencoder import AutoencoderConfig, KLAutoencoder


class DecoderTraining(KLAutoencoder):
    """A `KLAutoencoder` with a frozen encoder."""

    def trainable_names(self) -> list[str]:
        """Names of the trainable parameters."""
        return [f"decoder.{name}" for name, _ in self.decoder.named_parameters()]


def freeze_encoder(autoencoder: KLAutoencoder) -> DecoderTraining:
    """A copy whose decoder can be trained further."""
    copy = DecoderTraining(autoencoder.config)
    copy.load_state_dict(autoencoder.state_dict())
    return copy


def renew_decoder(autoencoder: KLAutoencoder, *, channels: int, blocks: int) -> DecoderTraining:
    """A copy with the same latents and an untrained decoder; 0 channels or blocks stand for the encoder's."""
    config: AutoencoderConfig = replace(autoencoder.config, decoder_channels=channels, decoder_blocks=blocks)
    copy = DecoderTraining(config)
    copy.encoder.load_state_dict(autoencoder.encoder.state_dict())
    copy.scale.copy_(autoencoder.scale)
    return copy
