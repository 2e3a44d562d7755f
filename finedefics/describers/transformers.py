"""The describer "transformers:MODEL": a multimodal model run here, by its folder or hub name."""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from finedefics.describers.asking import AskingDescriber
from finedefics.describers.contract import DESCRIBERS, Given
from finedefics.describers.models import Answer, Failure, Keep, Outcome
from finedefics.describers.questions import Question
from finedefics.describers.shrink import shrunk
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.model_paths import check_there
from finedefics.rgb import UNDECODABLE, as_rgb


@DESCRIBERS.register("transformers")
def transformers_describer(given: Given) -> AskingDescriber:
    """Asks a model whose weights are loaded here, or in workers of the platform."""
    return AskingDescriber("transformers", TransformersModel.of(given), given)


class TransformersModel:
    """An image-text-to-text model that generates greedily; its weights are loaded at the first question.

    It travels pickled without its weights.

    Args:
        path: folder or hub name.
        batch: questions that are generated together.
        dtype: of weights and activations; default: what the model is stored in.
        device: ``cuda`` or ``cpu``; default: ``cuda`` where this process sees a GPU.
        edge: longest edge of a picture that it is shown, in pixels.
    """

    def __init__(
        self,
        path: str,
        *,
        batch: int = 8,
        dtype: str | None = None,
        edge: int = 1024,
        device: str = "",
    ) -> None:
        self.path, self.batch, self.dtype, self.edge, self.device = path, batch, dtype, edge, device

    @staticmethod
    def of(given: Given) -> "TransformersModel":
        """The model that a describer names, with the user's options."""
        if not given.argument:
            raise wrong_use(
                "no model is named", place="describer 'transformers'", cure="write transformers:MODEL"
            )
        known = ("batch", "dtype", "edge")
        options: dict[str, Any] = {k: given.options[k] for k in known if given.options.get(k) is not None}
        check_there(given.argument)  # here, and not in the workers that load it
        return TransformersModel(given.argument, **options)

    @cached_property
    def model_id(self) -> str:
        """Of a folder the digest of its content, else the hub's name."""
        folder = Path(self.path)
        if not folder.is_dir():
            return f"transformers:{self.path}"
        sha = hashlib.sha256()
        for file in sorted(f for f in folder.iterdir() if f.suffix in (".json", ".safetensors", ".jinja")):
            sha.update(json.dumps([file.name, file.stat().st_size]).encode())
            with file.open("rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
        return f"transformers:{folder.name}-{sha.hexdigest()[:12]}"

    def answer_all(self, questions: Iterable[Question], keep: Keep) -> None:
        """Answer in this process, a batch at a time."""
        waiting = iter(questions)
        while some := list(islice(waiting, self.batch)):
            for question, outcome in zip(some, self.answer(some), strict=True):
                keep(question, outcome)

    def answer(self, questions: Sequence[Question]) -> list[Outcome]:
        """Generate the answers to some questions; one whose picture cannot be used fails alone.

        Raises:
            FinedeficsError: the model cannot be loaded.
        """
        outcomes: dict[int, Outcome] = {}
        # what is generated together has a picture in every row or in none, as processors want it, and one
        # limit: so that no answer depends on what it was asked together with
        alike: dict[tuple[bool, int], list[tuple[int, Any]]] = {}
        for place, question in enumerate(questions):
            picture = self._prepared(question)
            if isinstance(picture, Failure):
                outcomes[place] = picture
            else:
                alike.setdefault((picture is not None, question.tokens), []).append((place, picture))
        for some in alike.values():
            answers = self._generate([questions[p] for p, _ in some], [i for _, i in some if i is not None])
            outcomes |= {place: answer for (place, _), answer in zip(some, answers, strict=True)}
        return [outcomes[place] for place in range(len(questions))]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_loaded", None)
        return state

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch

        from finedefics.backbones import load_processor, stored_dtype
        from finedefics.backbones.loading import as_one_line, load_weights
        from finedefics.backbones.precision import check_dtype

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = self.dtype or stored_dtype(self.path)
        check_dtype(dtype, device)
        with as_one_line(self.path):
            processor = load_processor(self.path)
        model = load_weights(self.path, dtype)
        processor.tokenizer.padding_side = "left"  # generating goes on from the last position
        return model.to(device).eval(), processor

    def _prepared(self, question: Question) -> Any:
        """The picture of a question as RGB, None where it has none, `Failure` where it is no picture."""
        if question.image is None:
            return None
        try:
            _, data = shrunk(question.image, self.edge)
            with Image.open(io.BytesIO(data)) as picture:
                return as_rgb(picture)
        except (*UNDECODABLE, FinedeficsError) as error:
            return Failure(f"the picture cannot be used ({type(error).__name__})")

    def _generate(self, questions: Sequence[Question], pictures: Sequence[Any]) -> list[Outcome]:
        import torch

        model, processor = self._loaded
        texts = [self._prompt(processor, question) for question in questions]
        shown = {"images": [[picture] for picture in pictures]} if pictures else {}
        inputs = processor(text=texts, padding=True, return_tensors="pt", add_special_tokens=True, **shown)
        inputs = {
            k: v.to(model.device, model.dtype) if v.is_floating_point() else v.to(model.device)
            for k, v in inputs.items()
        }
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                max_new_tokens=questions[0].tokens,
                do_sample=False,
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        read = inputs["input_ids"].shape[1]
        written = processor.tokenizer.batch_decode(out[:, read:], skip_special_tokens=True)
        pad = processor.tokenizer.pad_token_id
        return [
            Answer(text, int(inputs["attention_mask"][row].sum()), int((out[row, read:] != pad).sum()))
            for row, text in enumerate(written)
        ]

    @staticmethod
    def _prompt(processor: Any, question: Question) -> str:
        content = [{"type": "image"}] if question.image is not None else []
        turn = {"role": "user", "content": [*content, {"type": "text", "text": question.text}]}
        if getattr(processor, "chat_template", None):
            return str(processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))
        return f"{processor.image_token if content else ''}{question.text}\n"
