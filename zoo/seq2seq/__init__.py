"""Nets that read one text and write another."""

from zoo.seq2seq.recurrent import RecurrentEncoderDecoder, RecurrentSeq2Seq

__all__ = ["RecurrentEncoderDecoder", "RecurrentSeq2Seq"]
