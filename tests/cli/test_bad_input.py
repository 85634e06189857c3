# SPDX-License-Identifier: Apache-2.0
"""Bad input is refused with exit code 2 and a message: what, where, expected against found, what to do."""

import json
import re
import shutil
import struct
import subprocess

import h5py
import numpy as np
import pytest
from conftest import PROGRAM, SMALL, datasets, dsv4, ok, refused, replace, tap, verify

SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"
SCALE = "layers.1.attn.wq_a.scale"
WEIGHT = "layers.1.attn.wq_a.weight"


def use(model, says):
    """Both commands that run a model refuse this one; `trace` leaves no file."""
    output = model.parent / "out.h5"
    refused("trace", "--model", model, "--ids", "1,2,3", "-o", output, says=says)
    assert sorted(p.name for p in model.parent.iterdir() if p.name.startswith("out")) == []


def header_of(shard):
    data = shard.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + size]), data[8 + size:]


def write_shard(shard, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    shard.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def shard(model_copy):
    return model_copy / SHARD


@pytest.fixture
def edit_header(shard):
    def edit(change):
        header, data = header_of(shard)
        changed = change(header)
        write_shard(shard, changed if changed is not None else header, data)

    return edit


@pytest.fixture
def edit_config(model_copy):
    def edit(**fields):
        path = model_copy / "config.json"
        config = json.loads(path.read_text())
        for key, value in fields.items():
            if value is None:
                config.pop(key)
            else:
                config[key] = value
        path.write_text(json.dumps(config))

    return edit


def without_tensor(model, name):
    """Takes a tensor out of the shard and of the index."""
    shard = model / SHARD
    header, data = header_of(shard)
    begin, end = header.pop(name)["data_offsets"]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [x - (end - begin) for x in entry["data_offsets"]]
    write_shard(shard, header, data[:begin] + data[end:])
    index = json.loads((model / INDEX).read_text())
    del index["weight_map"][name]
    (model / INDEX).write_text(json.dumps(index))


# ---- checkpoints


def test_a_missing_shard_is_named(model_copy):
    (model_copy / SHARD).unlink()
    use(model_copy, ["missing shard", SHARD, "hint:"])


def test_an_index_that_names_a_missing_tensor_is_refused(model_copy):
    index = json.loads((model_copy / INDEX).read_text())
    index["weight_map"]["layers.9.ghost.weight"] = SHARD
    (model_copy / INDEX).write_text(json.dumps(index))
    use(model_copy, ["layers.9.ghost.weight", INDEX, "no shard holds it"])


def test_an_index_that_is_not_json_is_refused(model_copy):
    (model_copy / INDEX).write_text("{")
    use(model_copy, [INDEX, "not valid JSON"])


def test_an_index_that_leaves_the_directory_is_refused(model_copy):
    index = json.loads((model_copy / INDEX).read_text())
    index["weight_map"][WEIGHT] = "../elsewhere.safetensors"
    (model_copy / INDEX).write_text(json.dumps(index))
    use(model_copy, [WEIGHT, "same directory", "../elsewhere.safetensors"])


def test_a_missing_tensor_is_named_with_its_type_and_shape(model_copy):
    without_tensor(model_copy, "layers.2.attn.kv_norm.weight")
    use(model_copy, ["missing tensor layers.2.attn.kv_norm.weight", "[64]"])


def test_a_missing_scale_says_that_codes_mean_nothing_alone(model_copy):
    without_tensor(model_copy, SCALE)
    use(model_copy, [f"missing tensor {SCALE}", "hint:", "scale"])


def test_a_wrong_dtype_is_refused(model_copy, edit_header):
    edit_header(lambda h: h[WEIGHT].update(dtype="I8"))
    use(model_copy, [WEIGHT, "wrong dtype", "expected F8_E4M3", "found I8", "hint:"])


def test_an_unknown_dtype_is_refused(model_copy, edit_header):
    edit_header(lambda h: h[WEIGHT].update(dtype="F8_MADE_UP"))
    use(model_copy, [WEIGHT, "unknown dtype", "F8_MADE_UP", "hint:"])


def test_a_wrong_shape_is_refused(model_copy, edit_header):
    edit_header(lambda h: h["embed.weight"].update(shape=list(reversed(h["embed.weight"]["shape"]))))
    use(model_copy, ["embed.weight", "wrong shape", "expected [50, 128]", "found [128, 50]", "hint:"])


def test_a_truncated_file_is_refused(model_copy, shard):
    shard.write_bytes(shard.read_bytes()[:-1000])
    use(model_copy, [SHARD, "truncated", "1000", "hint:"])


@pytest.mark.parametrize("size", [0, 3, 8, 100])
def test_a_truncated_header_is_refused(model_copy, shard, size):
    shard.write_bytes(shard.read_bytes()[:size])
    use(model_copy, [SHARD, "expected", "found"])


@pytest.mark.parametrize("claim", [1 << 62, (1 << 64) - 1, 200_000_000])
def test_an_oversized_header_is_refused(model_copy, shard, claim):
    shard.write_bytes(struct.pack("<Q", claim) + shard.read_bytes()[8:])
    use(model_copy, [SHARD, str(claim), "hint:"])


def test_a_header_that_is_not_json_is_refused(model_copy, shard):
    data = bytearray(shard.read_bytes())
    data[8:12] = b"]]]]"
    shard.write_bytes(data)
    use(model_copy, [SHARD, "not valid JSON"])


def test_a_web_page_is_not_a_checkpoint(model_copy, shard):
    shard.write_text("<!DOCTYPE html><html>not found</html>\n")
    use(model_copy, [SHARD, "hint:"])


def test_overlapping_tensors_are_refused(model_copy, edit_header):
    def overlap(header):
        names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
        same = next((a, b) for a, b in zip(names, names[1:])
                    if header[a]["dtype"] == header[b]["dtype"] and header[a]["shape"] == header[b]["shape"])
        header[same[1]]["data_offsets"] = header[same[0]]["data_offsets"]

    edit_header(overlap)
    use(model_copy, [SHARD, "overlaps tensor"])


def test_offsets_past_the_end_are_refused(model_copy, edit_header, shard):
    size = len(header_of(shard)[1])
    edit_header(lambda h: h[WEIGHT].update(data_offsets=[size, size + 128 * 128]))
    use(model_copy, [SHARD, WEIGHT, f"the file holds {size} bytes"])


@pytest.mark.parametrize("offsets", [[64, 0], [-1, 5], [0, 1 << 63], "none", [0]])
def test_senseless_offsets_are_refused(model_copy, edit_header, offsets):
    edit_header(lambda h: h[WEIGHT].update(data_offsets=offsets))
    use(model_copy, [SHARD, WEIGHT, "data_offsets"])


@pytest.mark.parametrize("shape", [[-1, 5], [1 << 62, 1 << 62], "none", [1.5]])
def test_senseless_shapes_are_refused(model_copy, edit_header, shape):
    edit_header(lambda h: h[WEIGHT].update(shape=shape))
    use(model_copy, [SHARD, WEIGHT, "shape"])


@pytest.mark.parametrize("name", [SCALE, "layers.3.ffn.experts.5.w2.scale"])
def test_a_scale_of_255_is_found_wherever_it_stands(model_copy, shard, name):
    header, data = header_of(shard)
    data = bytearray(data)
    data[header[name]["data_offsets"][1] - 1] = 255
    write_shard(shard, header, bytes(data))
    use(model_copy, [SHARD, name, "below 255, found 255", "hint:"])


def test_a_hash_table_with_an_expert_that_does_not_exist_is_refused(model_copy, shard):
    header, data = header_of(shard)
    data = bytearray(data)
    begin = header["layers.0.ffn.gate.tid2eid"]["data_offsets"][0]
    data[begin:begin + 8] = struct.pack("<q", 6)
    write_shard(shard, header, bytes(data))
    use(model_copy, ["tid2eid", "expected an expert id in 0..5", "found 6"])


@pytest.mark.parametrize("fields, says", [
    ({"hidden_size": 256}, ["wrong shape", "expected", "found"]),
    ({"num_hidden_layers": 5, "compress_ratios": [0, 8, 4, 4, 0, 0]}, ["missing tensor layers.4."]),
    ({"n_routed_experts": 7}, ["expected", "7"]),
    ({"vocab_size": 51}, ["embed.weight", "expected [51, 128]", "found [50, 128]"]),
    ({"expert_dtype": "fp8"}, ["experts", "expected", "found", "hint:"]),
    ({"compress_ratios": [0, 4, 4, 4, 0]}, ["layers.1.attn", "expected"]),
    ({"compress_ratios": [0, 8]}, ["compress_ratios", "expected"]),
    ({"num_attention_heads": 0}, ["num_attention_heads"]),
    ({"num_attention_heads": "four"}, ["num_attention_heads"]),
    ({"hidden_size": None}, ["hidden_size"]),
    ({"o_groups": 3}, ["o_groups"]),
])
def test_a_config_that_contradicts_the_tensors_or_itself_is_refused(model_copy, edit_config, fields, says):
    edit_config(**fields)
    use(model_copy, says)


def test_a_config_that_is_missing_or_not_json_is_refused(model_copy):
    (model_copy / "config.json").write_text("{\"hidden_size\": ")
    use(model_copy, ["config.json", "not valid JSON"])
    (model_copy / "config.json").unlink()
    use(model_copy, ["no config.json", "hint:"])


def test_a_model_that_is_no_directory_is_refused(made, tmp_path):
    ids = ("--ids", "1", "-o", tmp_path / "out.h5")
    refused("trace", "--model", tmp_path / "none", *ids, says=["none: no such directory", "hint:"])
    refused("trace", "--model", made / "trace.h5", *ids, says=["expected a directory, found a file", "hint:"])
    (tmp_path / "empty").mkdir()
    refused("trace", "--model", tmp_path / "empty", *ids, says=["no config.json", "hint:"])


def test_an_extra_tensor_is_a_warning(model_copy, edit_header, shard):
    def extra(header):
        end = len(header_of(shard)[1])
        header["added.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}

    edit_header(extra)
    index = json.loads((model_copy / INDEX).read_text())
    index["weight_map"]["added.weight"] = SHARD
    (model_copy / INDEX).write_text(json.dumps(index))
    done = ok("trace", "--model", model_copy, "--ids", "1,2", "-o", model_copy.parent / "out.h5")
    assert "warning: 1 extra tensor ignored: added.weight" in done.stderr


# ---- token ids and calls


@pytest.mark.parametrize("arguments, says", [
    (["--ids", "1,50,2"], ["50", "0 … 49"]),
    (["--ids", "1,-1"], ["-1"]),
    (["--ids", "1,x,3"], ["--ids", "\"x\"", "id number 1", "hint:"]),
    (["--ids", "1,1.5"], ["--ids", "1.5", "hint:"]),
    (["--ids", "99999999999"], ["--ids", "99999999999"]),
    (["--ids", " , "], ["empty", "hint:"]),
    (["--ids", ""], ["ids", "hint:"]),
    (["--ids", "1,2,3", "--prefill", "4"], ["4 ids are needed", "3 were given", "hint:"]),
    (["--ids", "1,2,3", "--decode", "4"], ["ids", "3 were given"]),
    (["--ids", "1,2,3", "--prefill", "3", "--mtp"], ["4 ids are needed", "--mtp", "3 were given", "hint:"]),
    (["--ids", "1", "--mtp"], ["empty"]),
    (["--ids", "1,2,3", "--chunks", "2,2"], ["4 ids are needed", "3 were given"]),
    (["--ids", "1,2,3", "--chunks", "2,0"], ["--chunks", "\"0\"", "positive"]),
    (["--ids", "1,2,3", "--chunks", "2,-1"], ["--chunks", "\"-1\""]),
    (["--ids", "1,2,3", "--chunks", "2x"], ["--chunks", "2x"]),
    (["--ids", "1,2,3", "--chunks", ","], ["--chunks"]),
    (["--ids", "1,2,3", "--chunks", "9223372036854775807,2"], ["--chunks", "expected at most"]),
    (["--ids", "1,2,3", "--prefill", "9223372036854775807", "--decode", "1"], ["--prefill", "range"]),
    (["--ids", "1,2,3", "--decode", "9223372036854775807"], ["--decode", "range"]),
    (["--random", "9223372036854775807"], ["--random", "range"]),
    (["--ids", "1,2,3", "--chunks", "2", "--prefill", "2"], ["--chunks", "--prefill"]),
    (["--ids", "1,2,3", "--prefill", "0"], ["--prefill"]),
    (["--ids", "1,2,3", "--decode", "-1"], ["--decode"]),
    (["--ids", "1,2,3", "--layers", "4"], ["--layers 4", "0-3"]),
    (["--ids", "1,2,3", "--layers", "2-1"], ["--layers 2-1", "expected"]),
    (["--ids", "1,2,3", "--layers", "-1"], ["--layers"]),
    (["--ids", "1,2,3", "--layers", "a-b"], ["--layers a-b", "expected"]),
    (["--ids", "1,2,3", "--rounding", "nearest"], ["--rounding", "nearest", "hint:"]),
    (["--ids", "1,2,3", "--backend", "cuda"], ["cuda", "without nvcc", "hint:"]),
    (["--ids", "1,2,3", "--backend", "abacus"], ["abacus", "not known", "hint:"]),
    (["--random", "0"], ["--random"]),
    (["--random", "3", "--ids", "1"], ["--random", "--ids"]),
    ([], ["--ids"]),
])
def test_trace_refuses(model, tmp_path, arguments, says):
    refused("trace", "--model", model, *arguments, "-o", tmp_path / "out.h5", says=says)
    assert list(tmp_path.iterdir()) == []


def test_an_ids_file_is_read_or_refused(model, tmp_path):
    output = tmp_path / "out.h5"
    where = ("trace", "--model", model, "-o", output, "--ids-file", tmp_path / "ids.txt")
    refused(*where, says=["ids.txt", "cannot be read"])
    (tmp_path / "ids.txt").write_text("")
    refused(*where, says=["prompt is empty", "hint:"])
    (tmp_path / "ids.txt").write_text("1, 2\n three")
    refused(*where, says=["ids.txt", "\"three\"", "id number 2", "hint:"])
    (tmp_path / "ids.txt").write_bytes(b"\x00\xff1 2")
    refused(*where, says=["ids.txt", "not a token id"])
    assert not output.exists()
    (tmp_path / "ids.txt").write_text("1,2\t3\n4 ,\r\n5\n")
    ok(*where)
    with h5py.File(output) as file:
        assert list(file["inputs/input_ids"]) == [1, 2, 3, 4, 5]


def test_ids_beyond_those_asked_for_are_dropped_with_a_note(model, tmp_path):
    done = ok("trace", "--model", model, "--ids", "1,2,3,4,5,6", "--prefill", "2", "--decode", "1", "--mtp",
              "-o", tmp_path / "out.h5")
    assert "note: 2 ids beyond what was asked for are dropped" in done.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file["inputs/input_ids"]) == [1, 2, 3, 4]


def test_mtp_of_a_model_without_such_a_block_is_refused(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(SMALL))
    ok("make-model", "--preset", "tiny", "--config", tmp_path / "c.json", "--mtp", 0, "--seed", 1,
       "-o", tmp_path / "m")
    refused("trace", "--model", tmp_path / "m", "--ids", "1,2", "--mtp", "-o", tmp_path / "out.h5",
            says=["--mtp", "no MTP block"])
    assert not (tmp_path / "out.h5").exists()


# ---- output


def nothing_left(directory):
    return [p.name for p in directory.iterdir()] == []


def test_an_output_directory_that_does_not_exist_is_refused(model, tmp_path):
    refused("trace", "--model", model, "--ids", "1,2", "-o", tmp_path / "no" / "out.h5", says=["out.h5", "hint:"])


def test_an_output_that_is_a_directory_or_a_device_is_refused_and_kept(model, tmp_path):
    (tmp_path / "dir.h5").mkdir()
    refused("trace", "--model", model, "--ids", "1,2", "-o", tmp_path / "dir.h5", says=["dir.h5", "regular file"])
    refused("trace", "--model", model, "--ids", "1,2", "-o", "/dev/full", says=["/dev/full", "regular file"])
    assert [p.name for p in tmp_path.iterdir()] == ["dir.h5"]


def limit_file_size():
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_leaves_no_half_file_and_keeps_the_old_one(model, tmp_path):
    run = ("trace", "--model", model, "--random", "20", "-o", tmp_path / "out.h5")
    refused(*run, says=["out.h5"], preexec_fn=limit_file_size)
    assert nothing_left(tmp_path)
    (tmp_path / "out.h5").write_text("precious")
    refused(*run, says=["out.h5"], preexec_fn=limit_file_size)
    assert (tmp_path / "out.h5").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


def test_a_full_disk_leaves_no_half_model(tmp_path):
    refused("make-model", "--preset", "tiny", "--seed", 1, "-o", tmp_path / "m",
            says=["cannot be written", "hint:", "no partial file was left"], preexec_fn=limit_file_size)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("command", [
    ["trace", "--model", "{model}", "--random", "20", "-o", "{disk}/out.h5"],
    ["make-model", "--preset", "tiny", "--seed", "1", "-o", "{disk}/m"],
])
def test_a_disk_that_fills_up_is_left_as_it_was(model, tmp_path, command):
    # A small file system of its own, in a mount namespace that ends with the command.
    script = "mount -t tmpfs -o size=300k tmpfs \"$0\" && { \"$@\"; status=$?; ls -A \"$0\"; exit $status; }"
    unshare = ["unshare", "-rm", "sh", "-c", script, str(tmp_path)]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets nobody make a mount namespace: unshare -rm")
    arguments = [word.format(model=model, disk=tmp_path) for word in command]
    done = subprocess.run([*unshare, PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No space left" in done.stderr and "hint:" in done.stderr
    assert done.stdout == "", "something was left"


def test_a_refused_run_keeps_the_file_that_was_there(model, tmp_path):
    (tmp_path / "out.h5").write_text("precious")
    refused("trace", "--model", model, "--ids", "1,77", "-o", tmp_path / "out.h5", says=["77"])
    refused("trace", "--model", model, "--ids", "1,2", "--taps", "nothing.*", "-o", tmp_path / "out.h5",
            code=3, says=["--taps nothing.*", "matches no tap"])
    assert (tmp_path / "out.h5").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


# ---- traces


def test_taps_that_match_nothing_are_exit_code_3(trace, model, tmp_path):
    refused("trace", "--model", model, "--ids", "1,2", "--taps", "nothing.*", "-o", tmp_path / "out.h5",
            code=3, says=["--taps nothing.*", "matches no tap", "nothing was written"])
    assert not (tmp_path / "out.h5").exists()
    refused("verify", trace, "--model", model, "--taps", "nothing.*", code=3, says=["nothing was compared"])
    refused("verify", trace, "--model", model, "--call", "99", code=3, says=["nothing was compared"])
    refused("verify", trace, "--model", model, "--rows", "400-500", code=3, says=["nothing was compared"])


@pytest.mark.parametrize("arguments, says", [
    (["--rows", "5-3"], ["--rows 5-3", "expected"]),
    (["--rows", "x"], ["--rows x", "expected"]),
    (["--rows", "-4"], ["--rows"]),
    (["--layers", "9"], ["--layers 9", "0-3"]),
    (["--layers", "0-4"], ["--layers 0-4", "0-3"]),
    (["--layers", "3-1"], ["--layers 3-1", "expected"]),
    (["--call", "-1"], ["--call"]),
    (["--call", "two"], ["--call"]),
    (["--chunks", "3,3"], ["--chunks", "6 tokens", "25"]),
    (["--chunks", "3,a"], ["--chunks", "\"a\""]),
    (["--chunks", "25,0"], ["--chunks", "\"0\""]),
    (["--rounding", "official"], ["--rounding official", "declares", "exact", "hint:"]),
    (["--rounding", "sideways"], ["--rounding sideways", "exact"]),
    (["--mode", "global"], ["--mode", "global"]),
    (["--backend", "emulated"], ["emulated", "hint:"]),
    (["--no-such-option"], ["--no-such-option"]),
])
def test_verify_refuses(trace, model, arguments, says):
    refused("verify", trace, "--model", model, *arguments, says=says)


def test_verify_from_a_layer_needs_the_streams_before_it(edited, model):
    def drop(file):
        for call in list(file["calls"]):
            del file[f"calls/{call}/layers/1/hc_ffn/out"]

    refused("verify", edited(drop), "--model", model, "--layers", "2-3",
            says=["layers.1.hc_ffn.out", "position 0", "hint:"])


def test_a_token_id_outside_the_vocabulary_is_refused(edited, model):
    def change(value):
        def apply(file):
            file["inputs/input_ids"][3] = value
        return apply

    for value in (50, -1, 2**31 - 1):
        refused("verify", edited(change(value)), "--model", model,
                says=["inputs/input_ids[3]", str(value), "expected 0 … 49", "hint:"])


def test_too_few_ids_in_a_trace_are_refused(edited, model):
    def shorten(file):
        replace(file["inputs/input_ids"], file["inputs/input_ids"][:20])

    refused("verify", edited(shorten), "--model", model, says=["input_ids", "20 ids", "hint:"])


def test_a_trace_of_another_config_is_refused(edited, model):
    def other_heads(file):
        config = json.loads(file.attrs["config_json"])
        config["index_topk"] = 5
        file.attrs["config_json"] = json.dumps(config)

    refused("verify", edited(other_heads), "--model", model,
            says=["trace of another model", "index_topk: 5 against 3", "hint:"])


def test_other_weights_are_refused_by_fingerprint_and_else_found(edited, trace, made):
    refused("verify", trace, "--model", made / "other",
            says=["other weights", "expected fingerprint", "found", "hint:"])

    def anonymous(file):
        del file.attrs["model_fingerprint"]

    done = verify(edited(anonymous), made / "other")
    assert done.code == 1
    assert done.first["tap"] == "embed"
    assert any("fingerprint" in note for note in done.report["notes"])


def test_a_trace_in_exact_numerics_that_declares_official_ones_fails(edited, model):
    def official(file):
        file.attrs["rounding"] = "official"

    path = edited(official)
    done = verify(path, model, "--mode", "chained")
    assert done.code == 1 and done.first["tap"] == "layers.0.hc_attn.x"
    refused("verify", path, "--model", model, "--rounding", "exact", says=["declares", "official", "hint:"])


def test_truncated_traces_are_refused(trace, model):
    whole = trace.read_bytes()
    for size in (0, 4, 100, 2000, len(whole) // 2, len(whole) - 1):
        trace.write_bytes(whole[:size])
        for command in (["verify", trace, "--model", model], ["inspect", trace], ["diff", trace, trace]):
            refused(*command, says=[trace.name])


def test_foreign_files_are_refused(tmp_path, model):
    text = tmp_path / "text.h5"
    text.write_text("not HDF5\n" * 100)
    refused("verify", text, "--model", model, says=["text.h5"])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["weights"] = np.zeros(5)
    refused("verify", tmp_path / "foreign.h5", "--model", model, says=["foreign.h5", "dsv4_schema"])
    refused("verify", tmp_path, "--model", model, says=[str(tmp_path)])
    refused("verify", tmp_path / "none.h5", "--model", model, says=["none.h5", "No such file"])


def test_a_damaged_dataset_is_refused(trace, model):
    with h5py.File(trace) as file:
        dataset = tap(file, 0, "layers.2.attn.q")
        offset = dataset.id.get_chunk_info(0).byte_offset
    data = bytearray(trace.read_bytes())
    data[offset + 100] ^= 0xFF
    trace.write_bytes(data)
    refused("verify", trace, "--model", model,
            says=["/calls/0000/layers/2/attn/q", "checksum", "hint:"])


def test_calls_that_overlap_are_refused(edited, model):
    def move(start):
        def apply(file):
            file["calls/0001"].attrs["start_pos"] = start
        return apply

    refused("verify", edited(move(0)), "--model", model, says=["a call starts at position 0", "(21)", "hint:"])
    refused("verify", edited(move(20)), "--model", model, says=["a call starts at position 20", "(21)", "hint:"])

    # Of calls whose length is not told, the rows of the one before do not fit: a wrong shape.
    def untold(file):
        move(20)(file)
        del file["calls/0000"].attrs["n_tokens"]

    done = verify(edited(untold), model)
    assert done.code == 1 and "expected 20 rows" in done.one("embed")["reason"]


@pytest.mark.parametrize("name, shape, says", [
    ("layers.2.attn.qr", (21, 127), "expected [q] = [128]"),
    ("layers.2.attn.qr", (20, 128), "expected 21 rows"),
    ("layers.2.attn.q", (21, 256), "expected axes [s, h, c]"),
    ("layers.1.hc_attn.comb", (21, 9), "expected axes [s, n, n]"),
    ("layers.1.attn.compressor.entry", (3, 64), "expected 2 rows"),
    ("logits", (49,), "expected"),
    ("logits", (1, 50), "expected axes [v]"),
    ("embed", (21, 129), "expected [d] = [128]"),
    ("layers.3.ffn.gate.indices", (21, 3), ""),
])
def test_a_wrong_shape_of_a_known_tap_fails(edited, model, name, shape, says):
    def reshape(file):
        dataset = tap(file, 0, name)
        replace(dataset, np.ones(shape, dataset.dtype))

    done = verify(edited(reshape), model)
    assert done.code == 1
    result = done.one(name)
    assert result["verdict"] == "FAILED"
    assert says in result["reason"]
    assert done.first["tap"] == name and done.first["call"] == 0


def test_a_wrong_kind_of_number_fails(edited, model):
    def integers(file):
        replace(tap(file, 0, "layers.2.attn.qr"), np.ones((21, 128), np.int32))

    result = verify(edited(integers), model).one("layers.2.attn.qr")
    assert result["verdict"] == "FAILED" and "expected floating point, found integers" in result["reason"]


def test_an_unknown_dtype_attribute_is_refused(edited, model):
    def change(file):
        tap(file, 0, "embed").attrs["dtype"] = "fp7"

    refused("verify", edited(change), "--model", model, says=["fp7"])


def test_unknown_names_are_listed_with_the_nearest_known_one(edited, model):
    def rename(file):
        file.move("calls/0000/layers/2/attn/qr", "calls/0000/layers/2/attn/q_r")

    done = verify(edited(rename), model)
    assert done.code == 0 and done.counts["UNKNOWN"] == 1
    result = done.one("layers.2.attn.q_r")
    assert result["verdict"] == "UNKNOWN" and "layers.2.attn.q" in result["reason"]


def test_a_trace_of_unknown_names_only_is_exit_code_3(edited, model):
    def rename(file):
        for call, _, dataset in list(datasets(file)):
            del file[dataset.name]
        file["calls/0000/layers/2/attn/q_r"] = np.ones((21, 128))
        file["calls/0000/hidden_states"] = np.ones((21, 128))

    done = verify(edited(rename), model)
    assert done.code == 3 and done.counts["UNKNOWN"] == 2 and done.counts["PASSED"] == 0
    assert "nothing was compared" in done.talk


# ---- the command line


@pytest.mark.parametrize("arguments", [
    [], ["frobnicate"], ["verify"], ["verify", "x.h5"], ["verify", "--model", "m"], ["trace"],
    ["trace", "--ids", "1"], ["trace", "--model", "m", "--ids", "1"], ["diff", "a.h5"], ["inspect"],
    ["make-model"], ["make-model", "--preset", "tiny"], ["make-model", "--preset", "tiny", "--seed", "1"],
    ["make-model", "--seed", "1", "-o", "m"],
])
def test_a_usage_error_is_exit_code_2(arguments, tmp_path):
    done = dsv4(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() and not done.stdout
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("command", ["verify", "trace", "diff", "inspect", "make-model"])
def test_every_command_has_help_with_an_example(command):
    done = ok(command, "--help")
    assert re.search(rf"Examples?:\n  dsv4 {command} ", done.stdout)
    assert done.stderr == ""


def test_a_broken_pipe_or_a_full_stdout_is_not_success(trace, model):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([PROGRAM, "verify", trace, "--model", model, "--json"], stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "No space left" in done.stderr


def test_two_outputs_of_one_run_do_not_share_a_temporary_file(model, tmp_path):
    ok("trace", "--model", model, "--ids", "1,2", "-o", tmp_path / "a.h5")
    shutil.copy(tmp_path / "a.h5", tmp_path / "b.h5")
    ok("trace", "--model", model, "--ids", "1,2", "-o", tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
