"""Small trees in the exact layouts of public data sets, with their oddities; pictures are drawn by code."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bird_folder import encoded, put
from scipy.io import savemat

BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
VALUES = (
    *("has_wing_color::brown", "has_wing_color::black", "has_wing_color::white"),
    *("has_bill_shape::hooked_seabird", "has_bill_shape::curved_(up_or_down)"),
    "has_tail_shape::rounded_tail",
)
CARS = ("Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")
DOGS = ("n02086240-Shih-Tzu", "n02088094-Afghan_hound")
PETS = {"Abyssinian": "1", "american_bulldog": "2"}
AIRCRAFT = {"707-320": ("Boeing 707", "Boeing"), "F-16A/B": ("F-16", "Lockheed Martin")}


def lines(root: Path, path: str, rows: Sequence[str]) -> None:
    put(root, path, "".join(f"{row}\n" for row in rows).encode())


def write_cub(root: Path, per_class: int = 6) -> Path:
    """CUB-200-2011 of two classes; attributes.txt lies beside its folder, as in the archive."""
    home = root / "CUB_200_2011"
    names = [f"{bird}/{bird[4:]}_{n:04}_{n}.jpg" for bird in BIRDS for n in range(per_class)]
    for number, name in enumerate(names):
        put(home, f"images/{name}", encoded(number, "JPEG"))
    put(home, f"images/{BIRDS[0]}/unlisted.jpg", encoded(99, "JPEG"))
    lines(home, "images.txt", [f"{n} {name}" for n, name in enumerate(names, 1)])
    lines(
        home, "image_class_labels.txt", [f"{n} {1 + (n - 1) // per_class}" for n in range(1, len(names) + 1)]
    )
    lines(home, "train_test_split.txt", [f"{n} {int(n % per_class < 4)}" for n in range(1, len(names) + 1)])
    lines(home, "classes.txt", [f"{n} {bird}" for n, bird in enumerate(BIRDS, 1)])
    lines(root, "attributes.txt", [f"{n} {value}" for n, value in enumerate(VALUES, 1)])
    shares = ["46.0 40.0 2.5 60.0 10.0 30.0", "0.0 25.0 75.0 90.0 55.0 40.0"]
    lines(home, "attributes/class_attribute_labels_continuous.txt", shares)
    lines(home, "attributes/certainties.txt", ["1 not visible", "2 guessing", "3 probably", "4 definitely"])
    seen = [
        *("1 1 1 3 5.1", "1 2 1 4 2.0", "1 3 0 4 2.0", "1 4 1 2 1.0", "1 5 1 1 1.0", "1 6 0 1 1.0"),
        *("2 1 1 3 0 2.2", "2 2 1 3 0 1.5 9.9", "2 4 1 3 1.0"),  # two rows with columns too many
        "3 one 1 4 2.0",
        "4 9 1 4 1.0",  # a value that there is not
    ]
    lines(home, "attributes/image_attribute_labels.txt", seen)
    return root


def write_cub_2010(root: Path) -> Path:
    """The release of 2010: lists and pictures, and nothing else."""
    names = [f"{bird}/{bird[4:]}_{n:04}_{n}.jpg" for bird in BIRDS for n in range(4)]
    for number, name in enumerate(names):
        put(root, f"images/{name}", encoded(number, "JPEG"))
    put(root, f"images/{BIRDS[0]}/._{BIRDS[0][4:]}_0000_0.jpg", b"a fork")
    lines(root, "lists/train.txt", [name for n, name in enumerate(names) if n % 4 < 3])
    lines(root, "lists/test.txt", [name for n, name in enumerate(names) if n % 4 == 3])
    return root


def _cell(values: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
    cell = np.empty(shape, dtype=object)
    cell.flat[:] = list(values)
    return cell


def _structs(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    structs = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for number, row in enumerate(rows):
        structs[0, number] = tuple(row.values())
    return structs


def _box(**fields: Any) -> dict[str, Any]:
    return {**{f"bbox_{side}": 1.0 for side in ("x1", "y1", "x2", "y2")}, **fields}


def write_cars(root: Path, labels: bool = True) -> Path:
    """Stanford Cars' development kit: train and test pictures share their names."""
    for number in range(1, 5):
        put(root, f"cars_train/{number:05}.jpg", encoded(number, "JPEG"))
    for number in range(1, 4):
        put(root, f"cars_test/{number:05}.jpg", encoded(10 + number, "JPEG"))
    (root / "devkit").mkdir()
    train = [_box(**{"class": 1.0 + n % 2, "fname": f"{n:05}.jpg"}) for n in range(1, 4)]
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": _structs(train)})
    savemat(root / "devkit/cars_meta.mat", {"class_names": _cell(CARS, (1, 2))})
    bare = [_box(fname=f"{n:05}.jpg") for n in range(1, 4)]
    savemat(root / "devkit/cars_test_annos.mat", {"annotations": _structs(bare)})
    if labels:
        test = [{**row, "class": float(n), "fname": row["fname"]} for n, row in enumerate(bare, 1)]
        savemat(root / "cars_test_annos_withlabels.mat", {"annotations": _structs(test)})
    return root


def write_merged_cars(root: Path) -> Path:
    """The later archive: one folder, one file of annotations."""
    rows = []
    for number in range(1, 6):
        path = f"car_ims/{number:06}.jpg"
        put(root, path, encoded(number, "JPEG"))
        rows.append(
            {"relative_im_path": path, **_box(**{"class": 1.0 + number % 2, "test": float(number > 3)})}
        )
    savemat(root / "cars_annos.mat", {"annotations": _structs(rows), "class_names": _cell(CARS, (1, 2))})
    return root


def write_dogs(root: Path) -> Path:
    files = [f"{dog}/{dog[:9]}_{n}.jpg" for dog in DOGS for n in range(5)]
    for number, file in enumerate(files):
        put(root, f"Images/{file}", encoded(number, "JPEG"))
    put(root, f"Images/{DOGS[0]}/n02086240_99.jpg", encoded(99, "JPEG"))
    for split, chosen in (("train", [0, 1, 2, 5, 6, 7]), ("test", [3, 4, 8, 9])):
        listed = [files[n] for n in chosen]
        content = {
            "file_list": _cell(listed, (len(listed), 1)),
            "annotation_list": _cell([file.removesuffix(".jpg") for file in listed], (len(listed), 1)),
            "labels": np.array([[1.0 + n // 5] for n in chosen]),
        }
        savemat(root / f"{split}_list.mat", content)
    return root


def write_pets(root: Path) -> Path:
    """Forks and Matlab files among the pictures, a GIF that ends in .jpg, pictures that no list names."""
    listed = {}
    for label, (breed, species) in enumerate(PETS.items(), 1):
        for n in range(1, 6):
            name = f"{breed}_{n}"
            put(root, f"images/{name}.jpg", encoded(10 * label + n, "GIF" if n == 5 else "JPEG"))
            put(root, f"annotations/trimaps/{name}.png", encoded(50))
            listed[name] = f"{name} {label} {species} 1"
    put(root, "images/._Abyssinian_1.jpg", b"a fork")
    put(root, "images/Abyssinian_100.mat", b"a Matlab file")
    put(root, "images/Abyssinian_6.jpg", encoded(98, "JPEG"))
    head = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids"]
    put(root, "images/Abyssinian_7.jpg", encoded(97, "JPEG"))
    lines(root, "annotations/list.txt", [*head, *listed.values(), "Abyssinian_7 1 1 1"])
    for file, wanted in (("trainval", "123"), ("test", "45")):
        rows = [row for name, row in listed.items() if name[-1] in wanted]
        lines(root, f"annotations/{file}.txt", rows)
    return root


def write_flowers(root: Path) -> Path:
    """Flowers-102 of two flowers: numbers for labels, and a picture in no split."""
    for number in range(1, 10):
        put(root, f"jpg/image_{number:05}.jpg", encoded(number, "JPEG"))
    labels = np.array([[77, 77, 77, 77, 12, 12, 12, 12, 12]], dtype=np.uint8)
    savemat(root / "imagelabels.mat", {"labels": labels})
    ids = {"trnid": [1, 5], "valid": [2, 6], "tstid": [3, 4, 7, 8]}
    savemat(root / "setid.mat", {name: np.array([numbers], dtype=np.uint16) for name, numbers in ids.items()})
    return root


def write_aircraft(root: Path) -> Path:
    home = "fgvc-aircraft-2013b/data"
    pictures = [(f"{1000000 + n}", list(AIRCRAFT)[n % 2], ("train", "val", "test")[n // 2]) for n in range(6)]
    for number, (picture, *_) in enumerate(pictures):
        put(root, f"{home}/images/{picture}.jpg", encoded(number, "JPEG"))
    put(root, f"{home}/images/0000001.jpg", encoded(99, "JPEG"))
    for split in ("train", "val", "test"):
        here = [(picture, variant) for picture, variant, its in pictures if its == split]
        for level, name in (
            ("variant", lambda variant: variant),
            ("family", lambda variant: AIRCRAFT[variant][0]),
            ("manufacturer", lambda variant: AIRCRAFT[variant][1]),
        ):
            lines(root, f"{home}/images_{level}_{split}.txt", [f"{p} {name(v)}" for p, v in here])
    lines(root, f"{home}/variants.txt", list(AIRCRAFT))
    return root


def write_folder(root: Path) -> Path:
    """Class folders with numbers below images/, and what annotators saw beside them."""
    for number, bird in enumerate(BIRDS):
        for n in range(5):
            put(root, f"images/{bird}/{n}.jpg", encoded(10 * number + n, "JPEG"))
    rows = [
        "class,attribute,value,percent",
        *(f"{BIRDS[0]},has_wing_color,{value},{share}" for value, share in (("brown", 46), ("black", 40))),
        f"{BIRDS[1]},has_wing_color,white,75",
        f"{BIRDS[1]},has_tail_shape,rounded_tail,40",
        f"{BIRDS[1]},has_bill_shape,hooked,24",
    ]
    lines(root, "class_attributes.csv", rows)
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "aircraft": write_aircraft,
    "cars": write_cars,
    "cub": write_cub,
    "dogs": write_dogs,
    "flowers": write_flowers,
    "folder": write_folder,
    "pets": write_pets,
}


def pack(root: Path, kind: str, top: str = "") -> Path:
    """The tree as a ``zip``, ``tar`` or ``tar.gz`` beside it, below the folder ``top`` where one is named."""
    archive = root.with_name(f"{root.name}.{kind}")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for file in files:
                out.write(file, str(Path(top) / file.relative_to(root)))
    else:
        with tarfile.open(archive, "w:gz" if kind.endswith("gz") else "w") as tar:
            for file in files:
                tar.add(file, str(Path(top) / file.relative_to(root)))
    return archive


def upload(root: Path, uri: str) -> str:
    """The tree copied below a URI."""
    from pyarrow import fs

    store, path = fs.FileSystem.from_uri(uri)
    for file in root.rglob("*"):
        if file.is_file():
            with (
                file.open("rb") as source,
                store.open_output_stream(f"{path}/{file.relative_to(root)}") as out,
            ):
                shutil.copyfileobj(source, out)
    return uri
