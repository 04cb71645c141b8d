"""What words ask for. Each table has every word that containerd, moby, mount(8) and the OCI runtimes know."""

from __future__ import annotations

from functools import reduce
from operator import or_

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountfd import Attr, IdMap, InvalidSpec, Propagation, param
from mountfd.model.option_words import ATIME, ATTRIBUTES, PROPAGATION
from mountfd.model.options import Options, pieces, split

PAIRS = {
    "ro": ("rw", Attr.RDONLY),
    "nosuid": ("suid", Attr.NOSUID),
    "nodev": ("dev", Attr.NODEV),
    "noexec": ("exec", Attr.NOEXEC),
    "nosymfollow": ("symfollow", Attr.NOSYMFOLLOW),
    "nodiratime": ("diratime", Attr.NODIRATIME),
}
TIMES = {"noatime": Attr.NOATIME, "strictatime": Attr.STRICTATIME, "relatime": Attr.RELATIME}
TAKEN_BACK = {"noatime": "atime", "strictatime": "nostrictatime", "relatime": "norelatime"}
MASK = Attr.ATIME_MASK


def parse(*words: str) -> Options:
    return Options.parse(words)


def everything(options: Options) -> dict[str, object]:
    return {name: getattr(options, name) for name in Options.__slots__ if name != "loop"}


def nothing_but(options: Options, **expected: object) -> None:
    assert everything(options) == {**everything(Options()), **expected}
    assert (options.loop is None) or "loop" in expected


# --- attributes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", PAIRS)
def test_a_word_sets_its_attribute_and_its_opposite_clears_it(word: str) -> None:
    opposite, bit = PAIRS[word]
    flag = {"superblock": {"ro": True}} if word == "ro" else {}
    nothing_but(parse(word), attrs=bit, **flag)
    flag = {"superblock": {"ro": False}} if word == "ro" else {}
    nothing_but(parse(opposite), clear=bit, **flag)
    nothing_but(parse(word, opposite), clear=bit, **flag)
    assert parse(opposite, word).attrs == bit
    assert parse(opposite, word).clear == 0


@pytest.mark.parametrize("word", PAIRS)
def test_with_an_r_it_is_for_the_whole_tree(word: str) -> None:
    opposite, bit = PAIRS[word]
    nothing_but(parse(f"r{word}"), below=bit)
    nothing_but(parse(f"r{opposite}"), below_clear=bit)
    nothing_but(parse(f"{word}=recursive"), below=bit)


@pytest.mark.parametrize("word", TIMES)
def test_access_times_are_one_field(word: str) -> None:
    nothing_but(parse(word), attrs=TIMES[word], clear=MASK)
    nothing_but(parse(f"r{word}"), below=TIMES[word], below_clear=MASK)


@pytest.mark.parametrize("word", TIMES)
def test_what_takes_back_an_access_time_goes_back_to_relatime(word: str) -> None:
    back = TAKEN_BACK[word]
    assert (parse(word, back).attrs, parse(word, back).clear) == (0, MASK)
    assert (parse(f"r{word}", f"r{back}").below, parse(f"r{word}", f"r{back}").below_clear) == (0, MASK)
    # It takes back its own value, and leaves another one alone.
    for other, value in TIMES.items():
        if other != word:
            assert parse(other, back).attrs == value


def test_a_taken_back_relatime_alone_changes_nothing() -> None:
    nothing_but(parse("norelatime"))
    nothing_but(parse("rnorelatime"))


def test_of_several_access_times_the_last_one_counts() -> None:
    assert parse("strictatime", "relatime").attrs == Attr.RELATIME
    assert parse("relatime", "strictatime").attrs == Attr.STRICTATIME
    assert parse("noatime", "strictatime").attrs == Attr.STRICTATIME
    assert parse("norelatime", "relatime", "noatime", "atime").attrs == 0
    assert parse("noatime", "nodiratime").attrs == Attr.NOATIME | Attr.NODIRATIME


def test_a_scope_says_whether_ro_is_meant_of_the_mount_or_of_the_filesystem() -> None:
    nothing_but(parse("ro=vfs"), attrs=Attr.RDONLY)
    nothing_but(parse("ro=fs"), superblock={"ro": True})
    nothing_but(parse("rw=fs"), superblock={"ro": False})


# --- flags of the filesystem ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "name", "wanted"),
    [
        ("sync", "sync", True),
        ("async", "sync", False),
        ("dirsync", "dirsync", True),
        ("mand", "mand", True),
        ("nomand", "mand", False),
        ("lazytime", "lazytime", True),
        ("nolazytime", "lazytime", False),
    ],
)
def test_flags_of_the_filesystem(word: str, name: str, wanted: bool) -> None:
    nothing_but(parse(word), superblock={name: wanted})


def test_flags_become_parameters_with_ro_before_all_others() -> None:
    options = parse("sync", "lazytime", "ro")
    assert options.sb_params(negative=False) == [param.Flag("ro"), param.Flag("sync"), param.Flag("lazytime")]


def test_a_flag_that_is_taken_back_is_said_only_where_there_is_something_to_take_it_from() -> None:
    options = parse("rw", "async", "nomand", "nolazytime")
    assert options.sb_params(negative=False) == []
    assert [one.key for one in options.sb_params(negative=True)] == ["rw", "async", "nomand", "nolazytime"]


# --- what to do ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "action", "bind_too"),
    [
        (["bind"], "bind", False),
        (["rbind"], "rbind", False),
        (["bind", "rbind"], "rbind", False),
        (["rbind", "bind"], "rbind", False),
        (["move"], "move", False),
        (["remount"], "remount", False),
        (["remount", "bind"], "remount", True),
        (["bind", "remount"], "remount", True),
        (["rbind", "remount"], "remount", True),
    ],
)
def test_actions(words: list[str], action: str, bind_too: bool) -> None:
    nothing_but(parse(*words), action=action, bind_too=bind_too)


@pytest.mark.parametrize("words", [["rbind", "ro"], ["ro", "rbind"]])
def test_the_order_of_an_action_and_an_attribute_does_not_matter(words: list[str]) -> None:
    nothing_but(parse(*words), action="rbind", attrs=Attr.RDONLY, superblock={"ro": True})


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("kind", ["shared", "slave", "private", "unbindable"])
def test_propagation_is_never_a_parameter_of_the_filesystem(kind: str, recursive: bool) -> None:
    nothing_but(parse(f"{'r' if recursive else ''}{kind}"), propagation=[(Propagation[kind.upper()], recursive)])


def test_several_propagations_are_kept_in_order() -> None:
    assert parse("rslave", "shared").propagation == [(Propagation.SLAVE, True), (Propagation.SHARED, False)]


# --- parameters ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("size=10k", param.String("size", "10k")),
        ("userxattr", param.Flag("userxattr")),
        ("k=v=w", param.String("k", "v=w")),
        ("RO", param.Flag("RO")),
        (" ro", param.Flag(" ro")),
        ("ddd=", param.Flag("ddd")),
        ("direct-io=1", param.String("direct-io", "1")),
        ("lowerdir+=/a", param.String("lowerdir+", "/a")),
        ('context="system_u:object_r:foo_t:s0:c1,c2"', param.String("context", "system_u:object_r:foo_t:s0:c1,c2")),
        ('fscontext="a,b"', param.String("fscontext", "a,b")),
        ('defcontext="a,b"', param.String("defcontext", "a,b")),
        ('rootcontext="a,b"', param.String("rootcontext", "a,b")),
        ('label="a,b"', param.String("label", '"a,b"')),
    ],
)
def test_what_nobody_knows_is_the_filesystems_own(word: str, expected: param.Param) -> None:
    nothing_but(parse(word), params=[expected])


def test_words_joined_in_one_are_parameters_as_they_are() -> None:
    nothing_but(parse("ro,noexec"), params=[param.Flag("ro"), param.Flag("noexec")])
    joined = parse("lowerdir=/a,upperdir=/b,workdir=/c").params
    assert joined == [param.String("lowerdir", "/a"), param.String("upperdir", "/b"), param.String("workdir", "/c")]


def test_a_list_as_containerd_hands_it_over() -> None:
    nothing_but(
        parse("noatime", "ro", "noexec", "size=10k"),
        attrs=Attr.RDONLY | Attr.NOEXEC | Attr.NOATIME,
        clear=MASK,
        superblock={"ro": True},
        params=[param.String("size", "10k")],
    )
    nothing_but(parse())
    nothing_but(parse("", ""))


def test_a_string_as_moby_and_fstab_hold_it() -> None:
    words = split("noatime,ro,noexec,size=10k")
    assert everything(parse(*words)) == everything(parse("noatime", "ro", "noexec", "size=10k"))
    assert parse(*split("remount,size=128k")).params == [param.String("size", "128k")]
    nothing_but(
        parse(*split("slave,ro,rw")),
        clear=Attr.RDONLY,
        superblock={"ro": False},
        propagation=[(Propagation.SLAVE, False)],
    )
    assert parse(*split("ro,,x")).params == [param.Flag("x")]


# --- words for others ----------------------------------------------------------------------------------------------
def test_words_for_whoever_reads_fstab_reach_nobody_else() -> None:
    words = ["defaults", "auto", "noauto", "nouser", "nofail", "_netdev", "silent", "loud", "comment=x", "helper=y"]
    nothing_but(parse(*words))
    nothing_but(parse("defaults", "rprivate"), propagation=[(Propagation.PRIVATE, True)])


def test_comments_are_kept_and_stay_out_of_the_kernel() -> None:
    words = ["x-containerd.foo", "x-systemd.automount", "X-fstrim.notrim", "x-foo=foodata"]
    nothing_but(parse(*words), comments=words)


def test_a_line_of_fstab_is_taken_apart_into_what_each_reader_wants() -> None:
    options = parse(*split("aaa,bbb=BBB,ccc,x-bar,x-foo=foodata,user=kzak,noexec,nosuid,loop=/dev/loop0"))
    assert options.params == [param.Flag("aaa"), param.String("bbb", "BBB"), param.Flag("ccc")]
    assert options.comments == ["x-bar", "x-foo=foodata"]
    assert options.loop is not None
    assert options.loop.device == "/dev/loop0"
    assert options.attrs == Attr.NOSUID | Attr.NODEV | Attr.NOEXEC


@pytest.mark.parametrize(
    ("word", "implied"),
    [
        ("user", Attr.NOSUID | Attr.NODEV | Attr.NOEXEC),
        ("users", Attr.NOSUID | Attr.NODEV | Attr.NOEXEC),
        ("owner", Attr.NOSUID | Attr.NODEV),
        ("group", Attr.NOSUID | Attr.NODEV),
    ],
)
def test_who_may_mount_says_what_it_may_not_contain_until_a_later_word(word: str, implied: Attr) -> None:
    nothing_but(parse(word), attrs=implied)
    assert parse(word, "dev").attrs == implied & ~Attr.NODEV
    assert parse("dev", word).attrs == implied


@pytest.mark.parametrize("word", ["X-containerd.custom=test-value", "X-containerd.mkdir.path=/a"])
def test_what_containerds_mount_manager_should_have_seen_is_refused(word: str) -> None:
    with pytest.raises(InvalidSpec, match="containerd's own") as caught:
        parse("size=10M", word, "mode=0755")
    assert caught.value.part == word.partition("=")[0]


# --- loop devices --------------------------------------------------------------------------------------------------
def test_loop_is_a_wish_and_no_parameter() -> None:
    options = parse("loop", "ro")
    assert (options.params, options.attrs) == ([], Attr.RDONLY)
    assert options.loop is not None
    assert options.loop.asked
    assert (options.loop.device, options.loop.offset, options.loop.sizelimit) == (None, 0, 0)
    assert not options.loop.direct_io
    assert not options.loop.partscan


@pytest.mark.parametrize("words", [["loop", "direct-io"], ["direct-io", "loop"], ["loop", "direct-io", "direct-io"]])
def test_direct_io_is_for_the_loop_device_however_often_it_is_said(words: list[str]) -> None:
    options = parse("a", *words, "b")
    assert options.params == [param.Flag("a"), param.Flag("b")]
    assert options.loop is not None
    assert options.loop.direct_io


def test_without_a_loop_device_direct_io_and_partscan_are_the_filesystems_own() -> None:
    nothing_but(parse("direct-io"), params=[param.Flag("direct-io")])
    nothing_but(parse("partscan", "a"), params=[param.Flag("a"), param.Flag("partscan")])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1k", 1024),
        ("2K", 2048),
        ("3KiB", 3072),
        ("1m", 1 << 20),
        ("1G", 1 << 30),
        ("1tib", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    options = parse("loop", f"offset={text}", f"sizelimit={text}")
    assert options.loop is not None
    assert (options.loop.offset, options.loop.sizelimit) == (size, size)


def test_an_offset_wants_a_loop_device() -> None:
    assert parse("offset=512").loop is not None
    assert parse("sizelimit=512").loop is not None
    assert parse("loop=/dev/loop7").loop is not None


@pytest.mark.parametrize(
    "text", ["x", "-1", "1KM", "k", "1.5M", "1 k", "\u0663", "9" * 5000, "16777216T", "0x10", "1_000"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidSpec, match="no size") as caught:
        parse("loop", f"offset={text}")
    assert caught.value.part == "offset"


# --- idmaps --------------------------------------------------------------------------------------------------------
def test_an_idmap_is_said_in_two_words() -> None:
    nothing_but(parse("uidmap=0:1000:1", "gidmap=0:2000:1"), idmap=IdMap.parse("0:1000:1", "0:2000:1"))
    several = parse("gidmap=0:2:1,5:6:7", "uidmap=0:1:1")
    assert several.idmap == IdMap.parse("0:1:1", "0:2:1,5:6:7")


@pytest.mark.parametrize(("given_", "other"), [("uidmap", "gidmap"), ("gidmap", "uidmap")])
def test_one_id_map_alone_is_an_error(given_: str, other: str) -> None:
    with pytest.raises(InvalidSpec, match=f"{given_}= is given without {other}=") as caught:
        parse(f"{given_}=0:1000:1")
    assert caught.value.part == other


def test_an_idmap_as_mount_says_it() -> None:
    assert parse("X-mount.idmap=u:0:1000:1 g:0:2000:1").idmap == IdMap.parse("0:1000:1", "0:2000:1")
    assert parse("X-mount.idmap=0:1000:1").idmap == IdMap.parse("0:1000:1")
    assert parse("X-mount.idmap=/proc/1/ns/user").idmap == "/proc/1/ns/user"


def test_of_two_ways_to_say_an_idmap_the_last_one_counts() -> None:
    both = ["uidmap=0:1:1", "gidmap=0:2:1"]
    assert parse("X-mount.idmap=0:1000:1", *both).idmap == IdMap.parse("0:1:1", "0:2:1")
    assert parse(*both, "X-mount.idmap=0:1000:1").idmap == IdMap.parse("0:1000:1")


def test_text_without_an_encoding_is_refused() -> None:
    with pytest.raises(InvalidSpec):
        parse("size=\ud800")


@pytest.mark.parametrize("word", ["idmap", "ridmap"])
def test_how_far_an_idmap_goes_needs_an_idmap(word: str) -> None:
    assert parse("uidmap=0:1:1", "gidmap=0:1:1", word).idmap_below is (word == "ridmap")
    assert parse("uidmap=0:1:1", "gidmap=0:1:1").idmap_below is None
    with pytest.raises(InvalidSpec, match="need both"):
        parse("bind", word)


@pytest.mark.parametrize("word", ["uidmap=", "uidmap=x", "uidmap=0:1", "uidmap=0:-1:100", "uidmap=0:1000:-1"])
def test_what_is_no_idmap(word: str) -> None:
    with pytest.raises(InvalidSpec):
        parse(word, "gidmap=0:1:1")


# --- X-mount words -------------------------------------------------------------------------------------------------
def test_what_mount_does_around_a_mount() -> None:
    nothing_but(parse("X-mount.mkdir"), mkdir=0o755)
    nothing_but(parse("x-mount.mkdir"), mkdir=0o755)
    nothing_but(parse("X-mount.mkdir=0700"), mkdir=0o700)
    nothing_but(parse("X-mount.owner=1", "X-mount.group=adm", "X-mount.mode=1777"), owner="1", group="adm", mode=0o1777)
    nothing_but(parse("X-mount.subdir=a/b"), subdir="a/b")


@pytest.mark.parametrize(
    ("word", "not_followed"),
    [
        ("X-mount.nocanonicalize", {"source", "target"}),
        ("X-mount.nocanonicalize=source", {"source"}),
        ("X-mount.nocanonicalize=target", {"target"}),
    ],
)
def test_what_is_not_followed(word: str, not_followed: set[str]) -> None:
    nothing_but(parse(word), nofollow=frozenset(not_followed))


@pytest.mark.parametrize("text", ["8", "rwx", "10000", "-1", "0o755", "7_5", " 7", "+7", "\u0667", "7" * 5000])
@pytest.mark.parametrize("key", ["X-mount.mkdir", "X-mount.mode"])
def test_what_is_no_mode(key: str, text: str) -> None:
    with pytest.raises(InvalidSpec, match="no mode") as caught:
        parse(f"{key}={text}")
    assert caught.value.part == key


@pytest.mark.parametrize("word", ["X-mount.owner", "X-mount.group=", "X-mount.mode", "X-mount.subdir"])
def test_a_word_without_the_value_that_it_needs(word: str) -> None:
    with pytest.raises(InvalidSpec, match="needs a value") as caught:
        parse(word)
    assert caught.value.part == word.rstrip("=")


# --- text ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("a", ["a"]),
        (",a,,b,", ["a", "b"]),
        ('aaa,bbb=BBB,context="foo,bar,gogo",ccc,ddd', ["aaa", "bbb=BBB", 'context="foo,bar,gogo"', "ccc", "ddd"]),
        ("aaa,bbb=BBB,ccc,ddd=", ["aaa", "bbb=BBB", "ccc", "ddd="]),
        ('a"b,c"d', ['a"b', 'c"d']),
        ('k="",b', ['k=""', "b"]),
    ],
)
def test_splitting(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_a_backslash_protects_a_comma_where_that_is_the_rule() -> None:
    assert split(r"a\,b,c") == ["a\\", "b", "c"]
    assert split(r"a\,b,c", escapes=True) == [r"a\,b", "c"]
    assert split("a\\", escapes=True) == ["a\\"]
    assert split(r"a\\,b", escapes=True) == [r"a\\", "b"]


def test_a_quote_that_is_not_closed() -> None:
    with pytest.raises(InvalidSpec, match="isn't closed"):
        split('context="a,b')


def test_an_idmap_keeps_its_commas() -> None:
    assert pieces("uidmap=0:1:1,5:6:7") == ["uidmap=0:1:1,5:6:7"]
    assert pieces("a,b") == ["a", "b"]


@pytest.mark.parametrize("word", ["=x", "="])
def test_a_word_without_a_name(word: str) -> None:
    with pytest.raises(InvalidSpec, match="no name"):
        parse(word)


@pytest.mark.parametrize("word", ["a\0b", "size=1\0", "\0"])
def test_a_nul_is_refused(word: str) -> None:
    with pytest.raises(InvalidSpec, match="NUL"):
        parse("ro", word)


@pytest.mark.parametrize("odd", [b"ro", 1, None, param.Flag("ro")])
def test_what_is_no_text_is_refused(odd: object) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Options.parse(["ro", odd])  # type: ignore[list-item]
    assert caught.value.part == "options"


# --- of any list ---------------------------------------------------------------------------------------------------
KNOWN = st.sampled_from([*ATTRIBUTES, *ATIME, *(f"r{word}" for word in [*ATTRIBUTES, *ATIME]), *PROPAGATION])
FIELDS = [{word, opposite} for word, (opposite, _) in PAIRS.items()]


@given(st.lists(KNOWN))
def test_of_contradicting_words_the_last_one_wins(words: list[str]) -> None:
    options = parse(*words)
    for prefix, attrs, clear in (("", options.attrs, options.clear), ("r", options.below, options.below_clear)):
        last = [
            next(word for word in reversed(words) if word in {prefix + name for name in field})
            for field in FIELDS
            if any(prefix + name in words for name in field)
        ]
        set_ = [ATTRIBUTES[word.removeprefix(prefix)] for word in last]
        assert attrs & ~MASK == reduce(or_, [bit for bit, wanted in set_ if wanted], 0)
        assert clear & ~MASK == reduce(or_, [bit for bit, wanted in set_ if not wanted], 0)
        assert attrs & clear & ~MASK == 0
        assert attrs & MASK in (0, Attr.NOATIME, Attr.STRICTATIME)
        assert clear & MASK in (0, MASK)
        times = [word for word in words if word in {prefix + name for name in TIMES}]
        if times and not {prefix + back for back in TAKEN_BACK.values()} & set(words):
            assert attrs & MASK == TIMES[times[-1].removeprefix(prefix)]


@given(st.lists(KNOWN | st.sampled_from(["size=1", "defaults", "x-a", "loop", "a,b", ""])))
def test_the_callers_list_stays_as_it_is(words: list[str]) -> None:
    before = list(words)
    one, two = Options.parse(words), Options.parse(words)
    assert words == before
    assert everything(one) == everything(two)


PLAIN = st.text(st.characters(exclude_characters=',"\0', exclude_categories=["Cs"]), min_size=1)


@given(st.lists(PLAIN))
def test_joining_and_splitting_gives_the_same(words: list[str]) -> None:
    assert split(",".join(words)) == words


@given(st.lists(st.text(st.sampled_from("ab,\\:/= "), min_size=1)))
def test_joining_and_splitting_gives_the_same_where_commas_are_protected(words: list[str]) -> None:
    protected = [word.replace("\\", "\\\\").replace(",", "\\,") for word in words]
    assert split(",".join(protected), escapes=True) == protected


@given(
    st.lists(
        st.text() | st.tuples(st.sampled_from(["X-mount.mode", "offset", "uidmap", "loop"]), st.text()).map("=".join)
    )
)
def test_any_text_is_understood_or_refused_by_name(words: list[str]) -> None:
    try:
        options = Options.parse(words)
    except InvalidSpec as error:
        assert error.part is not None  # noqa: PT017 (either way is right)
    else:
        assert all(isinstance(each, param.Param) for each in options.params)
