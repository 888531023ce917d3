// The drawing board in its frame: the page sets its first SMILES and reads the drawn one.
"use strict";
let applet = null;
let first = "";

function jsmeOnLoad() {
  applet = new JSApplet.JSME("board", "100%", "370px", { options: "oldlook,star,nopaste" });
  if (first) applet.readGenericMolecularInput(first);
}

window.board = {
  smiles: () => (applet ? applet.smiles() : ""),
  begin: (smiles) => {
    first = smiles;
    if (applet && smiles) applet.readGenericMolecularInput(smiles);
  },
};
