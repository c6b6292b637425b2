"""Word times: tokens -> words (``words``), a path through cross-attention -> times, clamped to speech
(``times``), with borders at quiet moments (``borders``)."""
