"""Transformers loads the tokenizers that nibble saved: same ids, same renders of the chat template in them."""
import json

from interop import check, run
from transformers import AutoTokenizer

# What Transformers 5 builds anew from the vocabulary of a Llama tokenizer gives a text that begins with a space one mark,
# where Llama 2's own tokenizer.json (and Transformers 4, and nibble) gives it two.
REBUILT = {"llama2"}

for kind in ["gpt2", "smollm", "qwen2", "llama3", "mistral_nemo", "llama2", "mistral", "gemma"]:

    @check(f"Transformers loads nibble's {kind} tokenizer: same ids, same conversations")
    def _(folder, kind=kind):
        tok = AutoTokenizer.from_pretrained(folder / kind)
        nibble = json.loads((folder / kind / "nibble.json").read_text())
        apart = 0
        for text, plain, whole in zip(nibble["texts"], nibble["plain"], nibble["whole"]):
            ours = tok(text, add_special_tokens=False).input_ids
            if ours != plain and kind in REBUILT:
                apart += 1
                continue
            assert ours == plain, (text, ours, plain)
            theirs = tok(text).input_ids
            if theirs[:2] == [tok.bos_token_id] * 2:  # a BOS written in the text: nibble never puts a second one
                theirs = theirs[1:]
            assert theirs == whole, (text, theirs, whole)
        for chat, text, prompt in zip(nibble["chats"], nibble["renders"], nibble["prompts"]):
            assert tok.apply_chat_template(chat, tokenize=False) == text, chat
            assert tok.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True) == prompt, chat
        assert (apart > 0) == (kind in REBUILT) and apart < 40, apart
        return f"{len(nibble['texts'])} texts" + (f", {apart} apart where Transformers 5 rebuilds it" if apart else "")


run()
